"""Draw docs/pictures: the main commands on a terminal, and the pages of ``kvpoll serve``. ``make pictures`` runs it.

The programs and the table are real: two tables under traffic (scene.py), for so long that the charts of the pages are
full. Ages, rates and times differ from run to run, so a picture changes with each; what they show does not. It needs
the extras ``test`` and ``pictures``, and for the pages Debian's Chromium, as tests/serve/browser does.

    python docs/draw_pictures.py [--minutes 15]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import scene
import terminal

from redis_kvpoll.serve import examine
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import browser as browsers
from tests.support import real
from tests.support.serving import Serving

FOLDER = Path(__file__).with_name("pictures")
COLUMNS = 100
PREFILL = scene.NAMESPACES[0]
PAGES = {"rooms": "/", "room": f"/room/{scene.SHOWN}", "failed": "/failed"}
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
COLORS = 160
SETTINGS = ("--save", "", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction")
"""Those of deploy/."""
DOCTOR_SECONDS = 75
"""Longer than the time between two looks of serve's doctor."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw docs/pictures.")
    parser.add_argument("--minutes", type=float, default=15, help="how long traffic runs before; less for a try")
    minutes = parser.parse_args().minutes
    FOLDER.mkdir(exist_ok=True)
    port = real.free_port()
    url = f"redis://127.0.0.1:{port}"
    with (
        EmbeddedServer(arguments=("--bind", "127.0.0.1", "--port", str(port), *SETTINGS)),
        scene.tables(url) as traffic,
        _serving(url) as serving,
    ):
        sys.stderr.write(f"{minutes:g} minutes of traffic\n")
        time.sleep(60 * minutes)
        with _wrong_policy(url):
            time.sleep(DOCTOR_SECONDS if minutes > 1 else 1)
            _draw(["doctor", "-n", PREFILL], url)
            _pages(serving, {"doctor": "/doctor"})
        traffic.fail_one()
        _pages(serving, PAGES)
        _terminals(url, serving.url)


@contextmanager
def _serving(url: str) -> Iterator[Serving]:
    """``kvpoll serve`` over both tables."""
    serving = Serving(ServeConfig(url, scene.NAMESPACES).checked(), examine_of=examine.examiner)
    serving.start()
    try:
        serving.until_ready()
        yield serving
    finally:
        serving.stop()


@contextmanager
def _wrong_policy(url: str) -> Iterator[None]:
    """Give the doctor something to find."""
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield
        client.config_set("maxmemory-policy", "noeviction")


def _draw(words: list[str], url: str, stop_after: float | None = None) -> None:
    terminal.draw(FOLDER / f"{words[0]}.svg", [terminal.run(words, url, COLUMNS, stop_after)], COLUMNS)


def _terminals(url: str, serve_url: str) -> None:
    _draw(["stats", "-n", PREFILL], url)
    _draw(["show", str(scene.SHOWN), "-n", PREFILL], url)
    _draw(["tail", "-n", PREFILL, "--last", "6"], url, stop_after=1.5)
    calls = (["ls", "-n", PREFILL, "--limit", "10"], ["ls", "-n", PREFILL, "--stuck", "--serve", serve_url])
    terminal.draw(FOLDER / "ls.svg", [terminal.run(words, url, COLUMNS) for words in calls], COLUMNS)
    with scene.killed_worker(url):
        suspected = terminal.run(["owners", "-n", PREFILL], url, COLUMNS)
    lost = terminal.run(["owners", "-n", PREFILL], url, COLUMNS)
    terminal.draw(FOLDER / "owners.svg", [suspected, lost], COLUMNS)


def _pages(serving: Serving, pages: dict[str, str]) -> None:
    if why := browsers.why_absent():
        sys.stderr.write(f"no pictures of the pages: {why}\n")
        return
    browser = browsers.Browser()
    try:
        for name, path in pages.items():
            for width, scheme in LOOKS:
                picture = FOLDER / f"{name}-{width}-{scheme}.png"
                browser.open(serving.url + path, width=width, scheme=scheme)
                browser.until_live()
                browser.check()
                browser.do("shot", path=str(picture))
                _shrink(picture)
    finally:
        browser.close()


def _shrink(picture: Path) -> None:
    """Keep the most frequent colors, as they are: a page has few, and many shades at the edges of letters."""
    with Image.open(picture) as image:
        full = image.convert("RGB")
    counted = sorted(full.getcolors(full.width * full.height) or (), reverse=True)[:COLORS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, color in counted for part in color])
    full.quantize(palette=palette, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
