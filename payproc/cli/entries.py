"""Entries of histories as rows of a table, for `show` and `history`.

Belongs here: the columns of entries, their layouts, and the row of each kind of entry. A narrow
screen, or one with long ids, gets several fields in a column, one below the other.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from payproc.cli.render import DONE, format_origin, format_time, style_outcome
from payproc.cli.table import Cell, Column, Layout, Line, Row, Styled
from payproc.escape import cell_text, shorten, unambiguous

if TYPE_CHECKING:
    from payproc.history import ConflictEntry
    from payproc.payments import HistoryEntry

_FIELDS = (
    Column("Event", is_id=True),
    Column("Type"),
    Column("Outcome"),
    Column("Reason"),
    Column("Transition"),
    Column("Recorded (UTC)"),
    Column("From"),
)

SHOW_COLUMNS = (Column("#", is_number=True), *_FIELDS)
HISTORY_COLUMNS = (Column("Payment", is_id=True), *_FIELDS)

_ROW_A_LINE: Layout = [[0], [1], [2], [3], [4], [5], [6], [7]]

SHOW_LAYOUTS: list[Layout] = [
    _ROW_A_LINE,
    [[0], [1, 2], [3, 4], [5], [6, 7]],
    [[0], [1, 2], [3, 4, 5], [6, 7]],
    [[0], [1, 2, 7], [3, 4, 5, 6]],
]
HISTORY_LAYOUTS: list[Layout] = [
    _ROW_A_LINE,
    [[0, 1], [2, 5], [3, 4], [6, 7]],
    [[0, 1, 7], [3, 4, 5], [6, 2]],
]


def make_show_row(entry: "HistoryEntry") -> Row:
    """Return the row of an entry beside its position, with its whole note."""
    return [str(entry.position), *_make_cells(entry, unambiguous)]


def make_history_row(payment_id: str, entry: "HistoryEntry | ConflictEntry") -> Row:
    """Return the row of an entry beside its payment.

    A conflict has its difference from the event on record as its transition.
    """
    from payproc.history import ConflictEntry  # late

    if not isinstance(entry, ConflictEntry):
        return [cell_text(payment_id), *_make_cells(entry, shorten)]
    recorded: list[Line] = [f"recorded as {entry.recorded.type.value}"]
    if entry.differs:
        recorded = ["other content"]
    elif entry.recorded.payment_id != payment_id:
        recorded.append("of another payment")
    return [
        cell_text(payment_id),
        cell_text(entry.event_id),
        entry.type.value,
        style_outcome(entry.outcome),
        entry.reason.value,
        recorded,
        format_time(entry.recorded_at),
        format_origin(entry),
    ]


def _make_cells(entry: "HistoryEntry", show_text: Callable[[str], str]) -> list[Cell]:
    """Return event, type, outcome, reason, transition, time and origin.

    A person's entry has the decision, its author and the note as outcome, reason and origin; the
    latter two are shown by `show_text`.
    """
    from payproc.payments import EventEntry, ResolutionEntry  # late

    transition, time = _describe_transition(entry), format_time(entry.recorded_at)
    if isinstance(entry, EventEntry):
        event, outcome, origin = cell_text(entry.event_id), style_outcome(entry.outcome), format_origin(entry)
        return [event, entry.type.value, outcome, entry.reason.value, transition, time, origin]
    note = show_text(entry.note)
    if isinstance(entry, ResolutionEntry):
        event, done = cell_text(entry.event_id), Styled(DONE[entry.resolution], "bold")
        return [event, "resolution", done, f"by {show_text(entry.resolved_by)}", transition, time, note]
    done = Styled("corrected", "bold")
    return ["", "correction", done, f"by {show_text(entry.corrected_by)}", transition, time, note]


def _describe_transition(entry: "HistoryEntry") -> str:
    if entry.state_before is entry.state_after:
        return entry.state_after.value
    return f"{entry.state_before.value} → {entry.state_after.value}"
