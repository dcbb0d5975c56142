"""The layers of redis_kvpoll, from top to bottom, and their picture.

The layering test (tests/package/test_architecture.py) reads LAYERS and holds every import to it;
``python docs/architecture.py`` draws architecture.svg from it. So the test and the picture cannot differ.

Each entry is a module or a folder of redis_kvpoll/. It may import what stands in a lower layer, and nothing of its own
layer: ``sync`` and ``aio`` do not import each other, nor do ``replica`` and ``transport``. To add a folder, give it a
place here and run this script.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

LAYERS: tuple[dict[str, str], ...] = (
    {"cli": "the kvpoll command"},
    {
        "replay": "traffic by real processes, with faults",
        "integrations": "SGLang's plugin",
    },
    {
        "sync": "everything that blocks",
        "aio": "everything that awaits",
    },
    {
        "replica": "the local copy that follows the change feed",
        "transport": "URLs, connection options, slot map, embedded server",
    },
    {"engine": "batching, retries, recovery, leases: decisions, no I/O"},
    {"protocol": "keys, scripts, commands, replies, the feed: pure"},
    {"validation": "argument checks", "_fork": "what to reset in the child of a fork"},
    {"errors": "the exceptions"},
    {"model": "KVPoll, Outcome, Update, Entry"},
)
IO = ("cli", "replay", "integrations", "sync", "aio", "transport")
"""What talks to a server, a process or a person. All else computes, and is tested without any of them."""
LUA = "lua/: one script a file; the server runs it in one step, so the rules on rooms are here"
LEGEND = "blue: does I/O; green: decides, without I/O; what stands side by side does not import each other"

PICTURE = Path(__file__).with_name("architecture.svg")

_WIDTH, _MARGIN, _GAP = 940, 16, 12
_TOP, _HEIGHT, _STEP = 66, 46, 62
_STYLE = """
  svg { font: 13px system-ui, sans-serif; }
  .back { fill: #ffffff; stroke: #d0d7de; } text { fill: #1f2328; } .small { font-size: 12px; fill: #59636e; }
  .title { font-size: 15px; font-weight: 600; } .name { font-weight: 600; font-family: ui-monospace, monospace; }
  .io { fill: #ddf4ff; stroke: #54aeff; } .pure { fill: #dafbe1; stroke: #4ac26b; }
  .lua { fill: #fff8c5; stroke: #d4a72c; } .arrow { stroke: #59636e; stroke-width: 1.5; fill: none; }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; stroke: #3d444d; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .io { fill: #0c2d4d; stroke: #316dca; } .pure { fill: #12351f; stroke: #347d39; }
    .lua { fill: #3b2e08; stroke: #966600; } .arrow { stroke: #9198a1; }
  }"""


def draw() -> str:
    """Return the picture of LAYERS as an SVG."""
    height = _TOP + _STEP * (len(LAYERS) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"',
        'role="img" aria-labelledby="title desc">',
        '<title id="title">The layers of redis_kvpoll</title>',
        f'<desc id="desc">From top to bottom: {escape("; ".join(" | ".join(layer) for layer in LAYERS))}</desc>',
        f"<style>{_STYLE}\n</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="{_MARGIN}" y="27">The layers: imports go down only</text>',
        f'<text class="small" x="{_MARGIN}" y="48">{LEGEND}</text>',
    ]
    for number, layer in enumerate(LAYERS):
        parts += _row(_TOP + _STEP * number, layer)
        if number:
            parts.append(_arrow(_TOP + _STEP * number))
    top = _TOP + _STEP * len(LAYERS)
    parts.append(f'<rect class="lua" x="{_MARGIN}" y="{top}" width="{_WIDTH - 2 * _MARGIN}" height="30" rx="5"/>')
    parts.append(f'<text x="{_MARGIN + 12}" y="{top + 20}">{escape(LUA)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _row(top: int, layer: dict[str, str]) -> list[str]:
    width = (_WIDTH - 2 * _MARGIN - _GAP * (len(layer) - 1)) // len(layer)
    parts = []
    for number, (name, purpose) in enumerate(layer.items()):
        left = _MARGIN + number * (width + _GAP)
        kind = "io" if name in IO else "pure"
        parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{_HEIGHT}" rx="5"/>')
        parts.append(f'<text class="name" x="{left + 12}" y="{top + 19}">{escape(name)}</text>')
        parts.append(f'<text class="small" x="{left + 12}" y="{top + 37}">{escape(purpose)}</text>')
    return parts


def _arrow(top: int) -> str:
    middle, above = _WIDTH // 2, top - _STEP + _HEIGHT
    return f'<path class="arrow" d="M{middle} {above + 2} V{top - 3} m-4 -5 l4 5 l4 -5"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
