"""A snapshot of statistics as text: the same for pipes and terminals, in 80 columns, with colours on a terminal.

The most important line is the first; what is zero is dim; what wants attention has a colour.
"""

from __future__ import annotations

import textwrap
from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.owner_rows import fold, why
from redis_kvpoll.cli.rows import local_time
from redis_kvpoll.cli.terminal import OWNER_STYLES, STATUS_STYLES, print_table, short_time
from redis_kvpoll.errors import printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.statistics.model import FAILURES, LIVE, Snapshot

REASONS = 8
REASON_LINES = 3
LOSS_SECONDS = 3600.0
"""For how long a loss of data is shown."""
ORDER = (*LIVE, KVPoll.Success, KVPoll.Failed)


def print_snapshot(snapshot: Snapshot, about: str) -> None:
    """Print everything."""
    console = Console(highlight=False)
    clock = clock_of(snapshot.at)
    console.print(Text.assemble((snapshot.namespace, "bold"), (f"  {about}  {clock}  ", "dim"), _state(snapshot)))
    console.print(_rooms(snapshot))
    if snapshot.has_feed:
        console.print(_flow(snapshot))
    if any(snapshot.refused.values()):
        console.print(_refused(snapshot, console.width))
    if (lost_at := snapshot.data_lost_at) is not None and snapshot.at - lost_at < LOSS_SECONDS:
        ago = human(max(0.0, snapshot.at - lost_at))
        console.print(Text(f"all data was lost at {clock_of(lost_at)}, {ago} ago; live owners restore", "yellow"))
    console.print()
    print_table(console, _statuses(snapshot))
    _print_failures(console, snapshot)
    _print_owners(console, snapshot)


def _state(snapshot: Snapshot) -> Text:
    if not snapshot.has_feed:
        return Text("no feed: rooms are counted once a minute, and there are no rates", "yellow")
    if snapshot.synced:
        return Text("synced", "green")
    return Text(f"not current: {printable(snapshot.error or 'the table is being read')}", "bold yellow")


def _rooms(snapshot: Snapshot) -> Text:
    stuck = sum(snapshot.stuck.values())
    oldest = max((age for age in snapshot.oldest.values() if age is not None), default=None)
    line = Text(f"rooms {snapshot.total:,}   live {snapshot.live:,}   ")
    line.append(f"stuck {stuck:,}", "bold red" if stuck else "dim")
    line.append("   ")
    line.append(f"expiring {snapshot.expiring:,}", "yellow" if snapshot.expiring else "dim")
    line.append(f"   oldest live {human(oldest)}" if oldest is not None else "")
    return line


def _flow(snapshot: Snapshot) -> Text:
    rates = snapshot.rates
    share = rates.failed_share
    line = Text(f"opened {_rate(rates.opened)}   Success {_rate(rates.succeeded)}   ")
    line.append(f"Failed {_rate(rates.failed)}", "red" if rates.failed else "dim")
    line.append(f" ({share:.1%})" if rates.failed and share is not None else "", "red")
    line.append("" if any(snapshot.refused.values()) else "   refused 0", "dim")
    return line


def _refused(snapshot: Snapshot, width: int) -> Text:
    """The refused writes: how many a second, how many in all, and what is known of the last.

    The rate names its time if that is shorter than that of the other rates.
    """
    rates, rate = snapshot.rates, snapshot.rates.refused
    is_shorter = rates.refused_seconds < rates.seconds - 1
    over = f" over {human(rates.refused_seconds)}" if is_shorter else ""
    words = ", ".join(f"{outcome} {count:,}" for outcome, count in snapshot.refused.items() if count)
    line = Text("refused " if rate is None else f"refused {_rate(rate)}{over}   ", "yellow" if rate else "")
    line.append(f"{sum(snapshot.refused.values()):,} ({words})")
    line.append(f" since {clock_of(snapshot.refused_since)}" if snapshot.refused_since else "")
    if (last := snapshot.last_refused) is not None:
        who = printable(last.owner) if last.owner else "a process without a lease"
        room = "" if last.room is None else f", room {last.room}"
        what = f"  the last {human(max(0.0, snapshot.at - last.at))} ago: {last.outcome}{room},"
        space = " " if len(f"{what} from {who}") <= width else "\n    "
        line.append(f"\n{what}{space}from {who}", "dim")
    return line


def clock_of(at: float) -> str:
    """A time with its zone, without milliseconds; of today, without the day."""
    text = local_time(at)
    return f"{short_time(text)} {text[-6:]}"


def _rate(a_second: float) -> str:
    return f"{a_second:.2f}/s" if 0 < a_second < 1 else f"{a_second:,.1f}/s"


def _statuses(snapshot: Snapshot) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("status", no_wrap=True)
    for name in ("rooms", "stuck", "oldest", "p50", "p99"):
        table.add_column(name, justify="right", min_width=8, no_wrap=True)
    for status in ORDER:
        count = snapshot.counts.get(status, 0)
        cells = [Text(status.name, STATUS_STYLES[status]), Text(f"{count:,}", "" if count else "dim")]
        durations = (snapshot.status_durations if status in LIVE else snapshot.room_durations).get(status)
        stuck = snapshot.stuck.get(status)
        cells.append(Text("" if stuck is None else f"{stuck:,}", "bold red" if stuck else "dim"))
        cells.append(Text(human(snapshot.oldest.get(status))))
        cells += [Text(human(durations.quantile(share) if durations else None)) for share in (0.5, 0.99)]
        table.add_row(*cells)
    return table


def _print_failures(console: Console, snapshot: Snapshot) -> None:
    if not any(snapshot.failures.values()):
        return
    kinds = [f"{kind} {snapshot.failures[kind]:,}" for kind in FAILURES if snapshot.failures.get(kind)]
    console.print(Text.assemble(("\nfailures  ", "dim"), "  ".join(kinds)))
    width = max(20, console.width - 20)
    for reason in snapshot.reasons[:REASONS]:
        text = reason.last if reason.count == 1 else reason.text
        shown = _folded(printable(text) or "(no reason)", width)
        console.print(Text.assemble(f"{reason.count:>6,}  ", (f"{reason.kind:<10}  ", "dim"), shown), soft_wrap=True)
        if reason.last != text:
            console.print(Text(f"{'':20}{_folded(f'last: {printable(reason.last)}', width)}", "dim"), soft_wrap=True)


def _folded(text: str, width: int) -> str:
    """Return a reason in lines below each other: SGLang's begin with the room, and what happened is at their end."""
    lines = textwrap.wrap(text, width, max_lines=REASON_LINES, placeholder=" …")
    return f"\n{'':20}".join(lines)


def _print_owners(console: Console, snapshot: Snapshot) -> None:
    if not snapshot.owners:
        return
    states: Counter[str] = Counter(owner.state for owner in snapshot.owners)
    line = Text.assemble(("\nowners  ", "dim"))
    for state, style in OWNER_STYLES.items():
        if states[state]:
            line.append(f"{states[state]:,} {state}  ", style)
    line.rstrip()
    console.print(line)
    for group in fold(owner for owner in snapshot.owners if owner.state != "alive"):
        owner, lost_at = group[-1], max(one.lost_at for one in group)
        text = printable(owner.name) + (f" {len(group):,} times, the last" if len(group) > 1 else "")
        text += f" at {clock_of(lost_at)}" if lost_at else ""
        text += f": {printable(why(owner))}" if why(owner) else ""
        console.print(Text.assemble((f"  {owner.state:<9}", OWNER_STYLES[owner.state]), f"  {text}"), soft_wrap=True)
