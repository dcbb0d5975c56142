"""The requests of a replay."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from redis_kvpoll.errors import InvalidInputError, printable

# The statistics of a public trace of conversations on a prefill/decode cluster: 12,031 requests in 59 minutes.
REQUESTS_PER_SECOND = 3.4
BURST_SECONDS = 3.0
INPUT_MU, INPUT_SIGMA, MAX_INPUT = 8.74, 1.20, 126_195
MAX_OUTPUT = 2_000
MAX_FIELD = 2**53 - 1
"""The largest number in a trace: every JSON parser reads it exactly."""
OUTPUT_SCALE = 344.0
"""The scale of an exponential distribution that is cut at MAX_OUTPUT; its mean is then 343."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives (seconds of the trace's time) and its lengths in tokens."""

    id: int
    at: float
    input_length: int
    output_length: int


def read_trace(path: Path, limit: int | None = None) -> list[Request]:
    """The requests of a file of JSON lines with ``timestamp`` (ms), ``input_length`` and ``output_length``.

    Raises:
        InvalidInputError: the file cannot be read, or a line is malformed; the message names file, line and field.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [_row(path, number, line) for number, line in islice(enumerate(lines, 1), limit) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(f"cannot read the trace {path}: {why}") from None
    if not rows:
        raise InvalidInputError(f"the trace {path} has no requests")
    rows.sort(key=lambda row: row[0])
    first = rows[0][0]
    return [
        Request(number, (timestamp - first) / 1000, input_length, output_length)
        for number, (timestamp, input_length, output_length) in enumerate(rows)
    ]


def generate(count: int, seed: int) -> list[Request]:
    """Requests with the statistics above; the same for the same seed."""
    return list(islice(_endless(random.Random(seed)), count))  # noqa: S311 - traffic, not secrets


def _endless(rng: random.Random) -> Iterator[Request]:
    arrival, number = 0.0, 0
    while True:
        arrival += rng.expovariate(REQUESTS_PER_SECOND)
        burst = math.floor(arrival / BURST_SECONDS) * BURST_SECONDS
        input_length = min(MAX_INPUT, max(1, round(rng.lognormvariate(INPUT_MU, INPUT_SIGMA))))
        output_length = min(MAX_OUTPUT, max(1, round(rng.expovariate(1 / OUTPUT_SCALE))))
        yield Request(number, burst, input_length, output_length)
        number += 1


def _row(path: Path, number: int, line: str) -> tuple[int, int, int]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except (RecursionError, ValueError) as error:
        raise InvalidInputError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise InvalidInputError(f"{where}: a JSON object is expected, not {type(row).__name__}")
    timestamp, input_length, output_length = _counts(where, row, ("timestamp", "input_length", "output_length"))
    return timestamp, input_length, output_length


def _counts(where: str, row: dict[str, Any], fields: Iterable[str]) -> Iterator[int]:
    for field in fields:
        if field not in row:
            raise InvalidInputError(f"{where}: the field {field} is missing")
        value = row[field]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_FIELD:
            raise InvalidInputError(
                f"{where}: {field} must be an int from 0 to 2^53-1, not {printable(repr(value))[:40]}"
            )
        yield value
