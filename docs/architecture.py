"""The layers of redis_kvpoll, from top to bottom, and their picture.

The layering test (tests/package/test_architecture.py) reads LAYERS and holds every import to it;
``python docs/architecture.py`` draws architecture.svg from it. So the test and the picture cannot differ.

Each entry is a module or a folder of redis_kvpoll/. It may import what is in a lower layer, and nothing else of its own
layer: ``sync`` and ``aio`` do not import each other, nor do ``replica`` and ``transport``. To add a folder, add it to a
layer here and run this script.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

LAYERS: tuple[dict[str, str], ...] = (
    {"cli": "the kvpoll command"},
    {"serve": "metrics, probes, pages"},
    {
        "replay": "traffic with faults",
        "doctor": "what is wrong",
        "monitoring": "alerts, a board",
        "integrations": "SGLang's plugin",
    },
    {"agent": "one process that speaks for an engine's processes"},
    {
        "sync": "the blocking store",
        "aio": "the asyncio store",
    },
    {"statistics": "aggregates of a table, from its feed"},
    {
        "replica": "the local copy that follows the change feed",
        "transport": "URLs, connection options, slot map",
    },
    {"engine": "batching, retries, recovery, leases: decisions, no I/O"},
    {"protocol": "keys, scripts, commands, replies, the feed: pure"},
    {"validation": "argument checks", "_fork": "resets after a fork", "_process": "its name"},
    {"errors": "the exceptions"},
    {"model": "KVPoll, Outcome, Update, Entry"},
)
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "agent": {"server": ("session", ""), "session": ("",), "client": ("",), "": ()},
    "cli": {"commands": ("",), "": ()},
    "engine": {"leases": ("recovery", ""), "recovery": ("",), "": ("recovery",)},
}
"""Folders within a layer's folder, and which of the others each may import; "" is the modules beside them."""
IO = ("cli", "serve", "replay", "doctor", "integrations", "agent", "sync", "aio", "transport")
"""What talks to a server, a process or a terminal. The others only compute."""
SERVER = {
    "update, write": "the merge rule",
    "open, attach, clear": "generations",
    "abort, record_failure": "failures and reasons",
    "lease, reap": "expiry, lost owners",
    "replay": "after a loss of data",
    "poll, snapshot": "reads",
}
"""The main scripts of lua/, which the server runs, and what each decides."""
LEGEND = "Blue does I/O, green only computes. Boxes side by side do not import each other."

PICTURE = Path(__file__).with_name("architecture.svg")

_WIDTH, _MARGIN, _GAP = 940, 16, 12
_LAYERS_WIDTH = 630
_TOP, _HEIGHT, _LOW, _BETWEEN = 66, 44, 26, 16
_STYLE = """
  svg { font: 13px system-ui, sans-serif; }
  .back { fill: #ffffff; stroke: #d0d7de; } text { fill: #1f2328; } .small { font-size: 12px; fill: #59636e; }
  .title { font-size: 15px; font-weight: 600; } .name { font-weight: 600; font-family: ui-monospace, monospace; }
  .io { fill: #ddf4ff; stroke: #54aeff; } .pure { fill: #dafbe1; stroke: #4ac26b; }
  .server { fill: #fff8c5; stroke: #d4a72c; } .arrow { stroke: #59636e; stroke-width: 1.5; fill: none; }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; stroke: #3d444d; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .io { fill: #0c2d4d; stroke: #316dca; } .pure { fill: #12351f; stroke: #347d39; }
    .server { fill: #3b2e08; stroke: #966600; } .arrow { stroke: #9198a1; }
  }"""


def draw() -> str:
    """Return the picture of LAYERS, and of the server beside them, as an SVG."""
    tops = _tops()
    height = tops[-1] + _LOW + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"',
        'role="img" aria-labelledby="title desc">',
        '<title id="title">The layers of redis_kvpoll</title>',
        f'<desc id="desc">From top to bottom: {escape("; ".join(" | ".join(layer) for layer in LAYERS))}</desc>',
        f"<style>{_STYLE}\n</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="{_MARGIN}" y="27">Layers: imports go down only</text>',
        f'<text class="small" x="{_MARGIN}" y="48">{LEGEND}</text>',
    ]
    for top, layer in zip(tops, LAYERS, strict=True):
        parts += _row(top, layer)
        if top != tops[0]:
            parts.append(
                f'<path class="arrow" d="M{_MARGIN + 160} {top - _BETWEEN + 1} V{top - 2} m-4 -5 l4 5 l4 -5"/>'
            )
    return "\n".join([*parts, *_server(tops, height), "</svg>", ""])


def _is_low(layer: dict[str, str]) -> bool:
    """Whether a layer is single modules: it gets a low box, with its purpose on the same line."""
    return any((PICTURE.parents[1] / "redis_kvpoll" / f"{name}.py").exists() for name in layer)


def _tops() -> list[int]:
    tops = [_TOP]
    for layer in LAYERS[:-1]:
        tops.append(tops[-1] + (_LOW if _is_low(layer) else _HEIGHT) + _BETWEEN)
    return tops


def _row(top: int, layer: dict[str, str]) -> list[str]:
    width = (_LAYERS_WIDTH - _GAP * (len(layer) - 1)) // len(layer)
    is_low = _is_low(layer)
    parts = []
    for number, (name, purpose) in enumerate(layer.items()):
        left = _MARGIN + number * (width + _GAP)
        kind = "io" if name in IO else "pure"
        height = _LOW if is_low else _HEIGHT
        parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{height}" rx="5"/>')
        parts.append(f'<text class="name" x="{left + 12}" y="{top + 18}">{escape(name)}</text>')
        across, down = (108, 18) if is_low else (12, 36)
        parts.append(f'<text class="small" x="{left + across}" y="{top + down}">{escape(purpose)}</text>')
    return parts


def _server(tops: list[int], height: int) -> list[str]:
    """Return the server's box, and the arrow to it from the layer that sends."""
    sends = next(top for top, layer in zip(tops, LAYERS, strict=True) if "sync" in layer)
    left, right = _MARGIN + _LAYERS_WIDTH + 76, _WIDTH - _MARGIN
    size = f'width="{right - left}" height="{height - _MARGIN - _TOP}"'
    parts = [f'<rect class="server" x="{left}" y="{_TOP}" {size} rx="5"/>']
    lines = [
        (18, "name", "Redis or Valkey"),
        (38, "small", "runs the scripts of lua/,"),
        (56, "small", "each in one step:"),
    ]
    for number, (scripts, decision) in enumerate(SERVER.items()):
        lines += [(100 + 64 * number, "name", scripts), (118 + 64 * number, "small", decision)]
    for down, style, words in lines:
        parts.append(f'<text class="{style}" x="{left + 12}" y="{_TOP + down}">{escape(words)}</text>')
    start, middle = _MARGIN + _LAYERS_WIDTH, sends + _HEIGHT // 2
    parts.append(f'<path class="arrow" d="M{start + 2} {middle} H{left - 3} m-5 -4 l5 4 l-5 4"/>')
    for words, down in (("EVALSHA", -8), ("XREAD", 18)):
        parts.append(
            f'<text class="small" x="{(start + left) // 2}" y="{middle + down}" text-anchor="middle">{words}</text>'
        )
    return parts


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
