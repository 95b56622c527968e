"""`payproc export`: every recorded event as it was received."""

import contextlib
import sys
from typing import TYPE_CHECKING

import typer

from payproc.cli.console import ProblemLog, is_bar_useful, print_message, show_progress
from payproc.cli.database import open_database
from payproc.cli.exits import DONE_WITH_FINDINGS, exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, format_examples
from payproc.cli.render import DONE, format_count
from payproc.escape import printable_json, unambiguous
from payproc.signals import interrupt

if TYPE_CHECKING:
    from payproc.export import CorrectedPayment, ExportSummary, OmittedRecord

EXAMPLES = format_examples(
    "payproc export > events.jsonl",
    'payproc export | payproc ingest --database-url "$COPY_URL" -',
)


def export(quiet: Quiet = False, database_url: DatabaseUrl = None) -> None:
    """Write every recorded event as it was received.

    One event a line, to stdout. An empty database that ingests the lines records the same events,
    conflicts and redeliveries. Decisions of people are omitted; stderr prints their number and the
    differences of a copy.

    Exits with 3 if a recorded line no longer describes its event. Such a line is omitted and named.
    """
    with exit_on_errors():
        from payproc.export import ExportSummary, count_lines, export_events  # late

        summary = ExportSummary()
        omitted, corrected = ProblemLog(), ProblemLog()
        is_terminal = sys.stdout.isatty()
        has_bar = is_bar_useful(quiet=quiet)
        with open_database(database_url, quiet=quiet) as database:
            total = count_lines(database) if has_bar else None
            blocks = export_events(
                database,
                summary,
                lambda record: omitted.add(_describe_omission(record)),
                lambda payment: corrected.add(_describe_corrected(payment)),
            )
            with contextlib.closing(blocks), show_progress(total, has_bar) as on_progress:
                for block in blocks:
                    _write_whole(printable_json(block.decode()).encode() if is_terminal else block)
                    on_progress(summary.lines)
        omitted.close("record")
        corrected.close("corrected payment")
        for line in _describe_summary(summary, quiet=quiet):
            print_message(line)
    raise typer.Exit(DONE_WITH_FINDINGS if summary.omitted else 0)


def _write_whole(block: bytes) -> None:
    """Write whole lines to stdout. A signal interrupts the command after the last of them."""
    with interrupt.noted():
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    interrupt.check()


def _describe_omission(record: "OmittedRecord") -> str:
    return (
        f'{record.kind} "{unambiguous(record.event_id)}" of payment "{unambiguous(record.payment_id)}": '
        f"omitted: {record.why}"
    )


def _describe_corrected(payment: "CorrectedPayment") -> str:
    return (
        f'payment "{unambiguous(payment.payment_id)}": corrected: {payment.state.value} here, '
        f"{payment.state_in_copy.value} in a copy"
    )


def _describe_summary(summary: "ExportSummary", *, quiet: bool) -> list[str]:
    """Return the counts of an export; with `quiet`, only the omissions."""
    lines = []
    if not quiet:
        counts = [format_count(summary.events, "event"), format_count(summary.conflicts, "conflict")]
        if summary.redeliveries:
            counts.append(format_count(summary.redeliveries, "redelivery", "redeliveries"))
        lines.append(f"exported {', '.join(counts[:-1])} and {counts[-1]}")
    if summary.omitted:
        lines.append(
            f"omitted {format_count(summary.omitted, 'record')}: a copy would differ; the tables were edited manually, "
            "or the database encoding is not UTF8"
        )
    if omitted := _describe_decisions(summary):
        waiting = format_count(summary.waiting, "event needs", "events need")
        lines.append(f"omitted {omitted}: a replay contains events alone; in a copy {waiting} review")
    if summary.changed_events or summary.changed_payments:
        events = format_count(summary.changed_events, "event has", "events have")
        payments = format_count(summary.changed_payments, "payment ends", "payments end")
        lines.append(f"in a copy {events} another outcome, and {payments} in another state")
    return lines


def _describe_decisions(summary: "ExportSummary") -> str:
    """Return the counts of omitted decisions of people, or nothing."""
    parts = []
    if resolutions := sum(summary.resolutions.values()):
        counts = ", ".join(f"{count:,} {DONE[resolution]}" for resolution, count in summary.resolutions.items())
        parts.append(f"{format_count(resolutions, 'resolution')} ({counts})")
    if summary.corrections:
        parts.append(format_count(summary.corrections, "correction"))
    return " and ".join(parts)
