"""Tables and JSON for people and scripts.

What belongs here: how results look. Text from events is data: it goes through `plain`, so that it can neither drive a
terminal nor be read as markup, and into tables as `Text`, never as a string that Rich would interpret.
"""

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from payproc.logic import OUTCOME_OF, Outcome

if TYPE_CHECKING:  # reports show these, and need nothing that they need
    from payproc.ingest import Summary
    from payproc.payments import Conflict, HistoryEntry, Payment

WIDE = 130
"""Columns from which on a history fits in one line an entry."""

_STYLES = {
    Outcome.APPLY: "green",
    Outcome.IGNORE: "dim",
    Outcome.REJECT: "red",
    Outcome.MANUAL_REVIEW: "yellow",
}


def plain(text: str) -> str:
    """Text with everything that could move a cursor, change a colour or turn the reading order shown as an escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def to_json(value: Any) -> str:
    """One JSON document; indented, because people look at it too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def print_summary(console: Console, summary: "Summary") -> None:
    """What an ingest did: the four outcomes, malformed lines, time."""
    table = _table("Outcome", "Events", "Share", "Reasons")
    table.columns[1].justify = table.columns[2].justify = "right"
    for outcome, count in summary.outcomes.items():
        share = f"{count / summary.events:.1%}" if summary.events else "–"
        reasons = "\n".join(
            f"{reason.value} {reason_count:,}"
            for reason, reason_count in summary.reasons.items()
            if OUTCOME_OF[reason] is outcome
        )
        table.add_row(Text(outcome.value, _STYLES[outcome]), f"{count:,}", share, Text(reasons))
    console.print(table)
    console.print(Text(_footer(summary)), soft_wrap=True)


def _footer(summary: "Summary") -> str:
    parts = [_counted(summary.events, "event")]
    if summary.malformed:
        parts.append(_counted(summary.malformed, "malformed line"))
    seconds = summary.elapsed_seconds
    rate = f" ({summary.events / seconds:,.0f} events/s)" if seconds and summary.events else ""
    parts.append(f"{seconds:.2f} s{rate}")
    parts.append("dry run: nothing was written" if summary.dry_run else f"run {summary.run_id}")
    return " · ".join(parts)


def print_payment(console: Console, payment: "Payment") -> None:
    """A payment's state, its history and its conflicts."""
    console.print(
        Text.assemble(
            "payment ", (plain(payment.payment_id), "bold"), " is ", (payment.state.value, "bold"),
            f" · {_counted(len(payment.history), 'entry', 'entries')}",
        )
    )  # fmt: skip
    if payment.history:
        console.print(_history_table(payment.history, console.width))
    if payment.open_reviews:
        waiting = ", ".join(plain(entry.event_id) for entry in payment.open_reviews)
        console.print(Text(f"waiting for a person: {waiting}", "yellow"))
    if payment.conflicts:
        console.print(Group(Text("\nconflicts: what came under an event_id that was already taken"), ""))
        console.print(_conflict_table(payment.conflicts))


def _history_table(history: "Iterable[HistoryEntry]", width: int) -> Table:
    """One row an entry; on a narrow terminal, each row has two lines."""
    is_wide = width >= WIDE
    if is_wide:
        table = _table("#", "Event", "Type", "Outcome", "Reason", "Transition", "Recorded (UTC)", "From")
    else:
        table = _table("#", "Event\nType", "Outcome\nReason", "Transition", "Recorded (UTC)\nFrom")
    table.columns[0].justify = "right"
    for entry in history:
        place = Text(str(entry.position))
        event, kind = Text(plain(entry.event_id)), Text(entry.type.value)
        outcome, reason = Text(entry.outcome.value, _STYLES[entry.outcome]), Text(entry.reason.value)
        when, origin = Text(_when(entry.recorded_at)), Text(_origin(entry))
        if is_wide:
            table.add_row(place, event, kind, outcome, reason, _transition(entry, " "), when, origin)
        else:
            table.add_row(place, _two(event, kind), _two(outcome, reason), _transition(entry, "\n"), _two(when, origin))
    return table


def _two(upper: Text, lower: Text) -> Text:
    return Text("\n").join((upper, lower))


def _conflict_table(conflicts: "Iterable[Conflict]") -> Table:
    table = _table("Event", "Came as", "On record as", "Recorded (UTC)", "From")
    for conflict in conflicts:
        table.add_row(
            Text(plain(conflict.event_id)),
            Text(f"{conflict.type.value} of {plain(conflict.payment_id)}"),
            Text(f"{conflict.recorded.type.value} of {plain(conflict.recorded.payment_id)}"),
            _when(conflict.recorded_at),
            Text(_origin(conflict)),
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for header in headers:
        # Long ids are broken, never cut: what cannot be read whole cannot be looked up.
        table.add_column(header, overflow="fold")
    return table


def _transition(entry: "HistoryEntry", break_at: str) -> Text:
    if entry.state_before is entry.state_after:
        return Text(entry.state_after.value)
    return Text(f"{entry.state_before.value} →{break_at}{entry.state_after.value}")


def _when(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _origin(entry: "HistoryEntry | Conflict") -> str:
    return f"run {entry.run_id}, {plain(entry.source)}:{entry.line}"


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
