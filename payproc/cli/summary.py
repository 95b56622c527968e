"""The summary of an ingest: a table of outcomes, the totals, and the next steps of a person.

Belongs here: the lines that follow the last line of the input. ingest.py decides where they go.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from payproc.cli.console import open_screen
from payproc.cli.render import describe_rejected, format_count, style_outcome
from payproc.cli.table import Column, Line, Row
from payproc.logic import OUTCOME_OF, Outcome, Reason

if TYPE_CHECKING:
    from payproc.ingest.run import IngestSummary

MIN_EVENTS_FOR_ORDER = 10
"""Fewest events that show the order of the input. Fewer are often one payment's."""

NEWEST_FIRST = "the input may be newest first (tac FILE | payproc ingest -; try --dry-run first)"
"""Printed after a run in which most steps came before the step that they follow."""


def print_summary(summary: "IngestSummary", *, is_whole: bool, stderr: bool) -> None:
    """Print the four outcomes with their reasons, and a line of totals."""
    columns = (Column("Outcome"), Column("Events", is_number=True), Column("Share", is_number=True), Column("Reasons"))
    rows: list[Row] = []
    for outcome, count in summary.outcomes.items():
        share = f"{count / summary.events:.1%}" if summary.events else "–"
        reasons: list[Line] = [
            line
            for reason, reason_count in summary.reasons.items()
            if OUTCOME_OF[reason] is outcome
            for line in _describe_reason(summary, reason, reason_count)
        ]
        rows.append((style_outcome(outcome), f"{count:,}", share, reasons))
    screen = open_screen(stderr=stderr)
    screen.print_table(columns, rows)
    screen.print([_describe_totals(summary, is_whole)])


def _describe_reason(summary: "IngestSummary", reason: Reason, count: int) -> Iterator[str]:
    """Yield the lines on a reason: its count, and the command that lists differing duplicates."""
    line = f"{reason.value} {count:,}"
    if reason is Reason.EVENT_ID_CONFLICT and summary.known_conflicts:
        yield f"{line} ({summary.known_conflicts:,} known)"
    elif reason is Reason.DUPLICATE_EVENT and (differing := summary.differing_duplicates):
        yield f"{line} ({differing:,} {'differs' if differing == 1 else 'differ'})"
        if not summary.dry_run:
            yield f"run payproc history --reason {reason.value}"
    else:
        yield line


def _describe_totals(summary: "IngestSummary", is_whole: bool) -> str:
    parts = [format_count(summary.events, "event")]
    if summary.malformed:
        parts.append(format_count(summary.malformed, "malformed line"))
    seconds = summary.elapsed_seconds
    rate = f" ({summary.events / seconds:,.0f} events/s)" if seconds and summary.events else ""
    parts.append(f"{seconds:.2f} s{rate}")
    run = "nothing was read" if summary.run_id is None else f"run {summary.run_id}"
    parts.append("dry run: nothing was written" if summary.dry_run else run)
    if not is_whole:
        parts.append("not finished")
    return " · ".join(parts)


def is_probably_newest_first(summary: "IngestSummary") -> bool:
    """Return whether over a third of the events lack a predecessor, and they are most reviews."""
    missing = summary.reasons.get(Reason.PREDECESSOR_MISSING, 0)
    is_large = summary.events >= MIN_EVENTS_FOR_ORDER
    return is_large and missing * 3 > summary.events and missing * 2 > summary.outcomes[Outcome.MANUAL_REVIEW]


def describe_next_steps(summary: "IngestSummary", waiting: int) -> Iterator[str]:
    """Yield lines on the pending reviews of the database, and on the events rejected by this run.

    Conflicts that were on record already are not this run's.
    """
    if waiting:
        yield f"{format_count(waiting, 'event needs', 'events need')} review; run payproc review"
    if rejected := summary.outcomes[Outcome.REJECT] - summary.known_conflicts:
        yield describe_rejected(rejected, summary.run_id)
