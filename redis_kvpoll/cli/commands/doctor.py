"""``kvpoll doctor``: what is wrong with a table and its server, and what to do about it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from redis_kvpoll.cli.options import json_option, table_options
from redis_kvpoll.serve import documents

if TYPE_CHECKING:
    from redis_kvpoll.doctor.findings import Finding, Level

SYMBOLS = {"PROBLEM": "✗", "WARNING": "!", "NOTE": "·", "UNKNOWN": "?", "WELL": "✓"}
PLAIN_SYMBOLS = {"PROBLEM": "x", "WARNING": "!", "NOTE": "-", "UNKNOWN": "?", "WELL": "+"}
"""For a terminal whose encoding lacks the others."""
COLORS = {"PROBLEM": "red", "WARNING": "yellow", "NOTE": "cyan", "UNKNOWN": None, "WELL": "green"}
NARROW, WIDEST = 60, 120
"""Below the first, a finding begins on the line below the name of its check."""
NARROWEST = 24


@click.command(short_help="Examine a table and its server, and say what to do.")
@table_options
@click.option(
    "--expect",
    multiple=True,
    metavar="NAME=VALUE",
    help="What should be: policy, shards, mode, feed_length, schema, or how many are alive: prefill=4, decode=8.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also list what is well or not known.")
@json_option
def doctor(url: str, namespace: str, expect: Sequence[str], verbose: bool, wants_json: bool) -> None:
    """Examine a table and its server, and print a line for each check that found something, the worst first.

    It looks twice, 5 s apart, at all nodes of a cluster, and writes nothing. The user of kvpoll acl --read-only is
    enough: what the user may not read counts as not known, not as a failure.

    Exit status: 0 all is well, or notes only; 3 warnings; 4 problems; 1 the server gives no answer, or refuses.
    """
    from redis_kvpoll.doctor.examination import Doctor, parse_expected
    from redis_kvpoll.doctor.findings import exit_status

    try:
        expected = parse_expected(expect)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expect") from None
    examiner = Doctor(url, namespace, expected)
    findings = examiner.examine()
    status = exit_status(findings)
    if wants_json:
        click.echo(json.dumps(as_object(examiner.shown_url, namespace, findings), indent=2, ensure_ascii=False))
    else:
        columns = shutil.get_terminal_size().columns - 1
        for line in lines(findings, verbose, min(max(columns, NARROWEST), WIDEST)):
            click.echo(line)
        click.echo(summary(findings, status))
    sys.exit(status)


def as_object(server: str, namespace: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Return what --json prints; docs/reference/doctor.schema.json describes it."""
    return {"server": server, "namespace": namespace, "findings": documents.findings(findings)}


def lines(findings: Sequence[Finding], verbose: bool, width: int) -> Iterator[str]:
    """Yield the lines of a report, with colours. Where it is narrow, the texts begin below the names."""
    quiet = ("WELL", "UNKNOWN")
    listed = [finding for finding in findings if verbose or finding.level.name not in quiet]
    is_narrow = width < NARROW
    margin = 2 if is_narrow else 2 + max((len(finding.check) for finding in findings), default=0) + 2
    wrapper = textwrap.TextWrapper(width - margin, break_long_words=False, break_on_hyphens=False)  # names stay whole
    for finding in listed:
        head = f"{symbol(finding.level)} {click.style(finding.check.ljust(margin - 2), bold=True)}"
        texts = wrapper.wrap(finding.found) or [""]
        yield head.rstrip() if is_narrow else head + texts[0]
        for line in texts[not is_narrow :]:
            yield " " * margin + line
        if finding.wanted and verbose:
            yield " " * margin + click.style(f"wanted: {finding.wanted}", dim=True)
        for line in wrapper.wrap(finding.advice):
            yield " " * margin + click.style(line, dim=finding.level.name == "WELL", fg="blue")
    if not verbose:
        yield from _unlisted(findings, listed, margin)


def _unlisted(findings: Sequence[Finding], listed: Sequence[Finding], margin: int) -> Iterator[str]:
    """Yield a line for what is not listed: how many checks are not known, and how many are well."""
    rest = [finding for finding in findings if finding not in listed]
    for name, text in (("UNKNOWN", "not known"), ("WELL", "well")):
        of_level = [finding for finding in rest if finding.level.name == name]
        if of_level:
            others = "others" if listed and name == "WELL" else text
            count = f"{len(of_level)} {others}".ljust(max(0, margin - 4))
            yield f"{symbol(of_level[0].level)} {count}  " + click.style("--verbose lists them", dim=True)


def summary(findings: Sequence[Finding], status: int) -> str:
    """Return the last line of a report."""
    if status == 1:
        return "Nothing else is known."
    problems, warnings = (sum(finding.level.name == name for finding in findings) for name in ("PROBLEM", "WARNING"))
    counts = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((problems, "problem"), (warnings, "warning")) if n]
    if not counts:
        notes = sum(finding.level.name == "NOTE" for finding in findings)
        return "All is well" + (f"; {notes} note{'' if notes == 1 else 's'}." if notes else ".")
    return f"{' and '.join(counts)} to see to."


def symbol(level: Level) -> str:
    """Return the symbol of a level, in its colour."""
    symbols = SYMBOLS
    try:
        "".join(SYMBOLS.values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        symbols = PLAIN_SYMBOLS
    return click.style(symbols[level.name], fg=COLORS[level.name])
