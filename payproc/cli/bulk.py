"""Many decisions with `payproc resolve`: all that filters pick, or a file of them.

Belongs here: the inputs, the question, the lines of --decisions, and the summary. The decisions are
those of payproc/bulk.py. The command imports this module late, because others can do without it.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import typer

from payproc.bulk import BulkResult, BulkSummary, Order, Resolver, Settled, plan
from payproc.cli.console import confirm, is_watched, open_screen, show_progress
from payproc.cli.exits import DONE_WITH_FINDINGS
from payproc.cli.files import OutputFiles
from payproc.cli.filters import describe_no_reviews
from payproc.cli.options import Format, refuse_option
from payproc.cli.problems import LineProblems
from payproc.cli.render import MEANING, format_count, to_json, to_json_line
from payproc.cli.table import Column
from payproc.cli.wrap import join_parts
from payproc.db.connection import Database
from payproc.errors import CannotFinish, PayprocError, WrongUsage
from payproc.escape import shorten
from payproc.ingest.sources import check_sources, format_name, refuse_unreadable
from payproc.logic import Reason
from payproc.orders import Defaults, MalformedOrder, read_orders
from payproc.review import ReviewDecision
from payproc.review_queue import ReviewFilter
from payproc.signals import interrupt

_FROM_STDIN = "payproc resolve --from -"
"""Command that takes decisions from the output of a tool."""


class BulkReport(NamedTuple):
    """The options that decide which parts of the results are printed, and where."""

    output_format: Format
    decisions: str | None
    """The file of --decisions."""
    dry_run: bool
    quiet: bool

    @property
    def is_stdout_taken(self) -> bool:
        """Return whether --decisions has stdout, so the summary goes to stderr."""
        return self.decisions == "-"

    def print(self, summary: BulkSummary, *, is_whole: bool) -> None:
        """Print the summary."""
        if self.output_format is not Format.TABLE:
            typer.echo(to_json(summary, self.output_format), err=self.is_stdout_taken)
        elif not self.quiet:
            screen = open_screen(stderr=self.is_stdout_taken)
            counts = (("resolved", summary.resolved), ("already", summary.already), ("refused", summary.refused))
            rows = [(name, f"{count:,}") for name, count in (*counts, ("malformed", summary.malformed))]
            screen.print_table((Column("Result"), Column("Decisions", is_number=True)), rows)
            parts = [f"{reason.value} {summary.reasons[reason]:,}" for reason in Reason if summary.reasons[reason]]
            if summary.against_table:
                parts.append(f"{summary.against_table:,} against the table")
            parts.append(f"{summary.elapsed_seconds:.2f} s")
            if self.dry_run:
                parts.append("dry run: nothing was written")
            if not is_whole:
                parts.append("not finished")
            screen.print(join_parts(parts, " · ", screen.width))

    def print_none(self, filters: ReviewFilter) -> None:
        """Print the line for no events that the filters pick."""
        if not self.quiet:
            typer.echo(describe_no_reviews(filters), err=self.is_stdout_taken)


class _Results:
    """Collector of results: it counts them, writes --decisions, and lists the problems."""

    def __init__(self, file: IO[bytes] | None, report: BulkReport) -> None:
        self.report = report
        self.summary = BulkSummary(dry_run=report.dry_run)
        self.problems = LineProblems(_FROM_STDIN)
        self._file = file
        self._began = time.monotonic()

    def add(self, settled: Settled) -> None:
        """Take a result, which is durable."""
        result, reason = settled
        self._count(result, reason)
        if result.error is not None:
            place = "" if result.source is None else f"{result.source}:{result.line}: "
            self.problems.add(place + result.error)

    def add_malformed(self, order: MalformedOrder) -> None:
        """Take a line that is no decision."""
        self._count(order.result, None)
        self.problems.add_line(order.source, order.line, order.reason)

    def _count(self, result: BulkResult, reason: Reason | None) -> None:
        self.summary.add(result, reason)
        if self._file is not None:
            try:
                self._file.write(to_json_line(result).encode() + b"\n")
                self._file.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise CannotFinish(
                    f"--decisions: cannot be written: {error.strerror}; recorded decisions stay recorded, and a rerun "
                    "is safe"
                ) from error

    def close(self, *, is_whole: bool) -> None:
        """Print all that follows the last result."""
        self.problems.close("problem", "" if self.report.decisions else "; --decisions FILE lists them all")
        self.summary.elapsed_seconds = time.monotonic() - self._began
        self.report.print(self.summary, is_whole=is_whole)


def check_file(context: typer.Context, name: str) -> None:
    """Refuse a file of decisions that cannot be read. Raises WrongUsage."""
    refuse_option(context, "--from", name)
    if not name:
        raise WrongUsage("--from: empty name, expected a file name, or - for standard input")
    check_sources([name], _FROM_STDIN)


def resolve_all(
    database: Database,
    filters: ReviewFilter,
    limit: int | None,
    decision: ReviewDecision,
    report: BulkReport,
    outputs: OutputFiles,
    *,
    yes: bool,
) -> int:
    """Decide all that the filters pick; return the exit code."""
    found = plan(database, filters, decision, limit)
    if report.dry_run:
        return _report_plan(found, filters, report, outputs)
    planned = BulkSummary()
    with tempfile.TemporaryFile() as picked:
        for result, reason in found:
            planned.add(result, reason)
            planned_version = None if result.position is None else result.position - 1
            picked.write(to_json_line((result.event_id, planned_version)).encode() + b"\n")
        if planned.resolved and not yes and not _ask(planned, decision):
            raise CannotFinish("nothing was changed")
        outputs.empty()
        count = planned.resolved + planned.refused
        if not count and report.output_format is Format.TABLE:
            report.print_none(filters)
            return 0
        picked.seek(0)
        orders = (
            Order(event_id, decision, filters=filters, planned_version=version)
            for event_id, version in map(json.loads, picked)
        )
        return _take_all(database, orders, _Results(outputs.decisions, report), count)


def _report_plan(found: Iterable[Settled], filters: ReviewFilter, report: BulkReport, outputs: OutputFiles) -> int:
    """Report the results of a dry run; return the exit code."""
    outputs.empty()
    results = _Results(outputs.decisions, report)
    for settled in found:
        results.add(settled)
    if not (results.summary.resolved or results.summary.refused) and report.output_format is Format.TABLE:
        report.print_none(filters)
        return 0
    results.close(is_whole=True)
    return _choose_exit_code(results.summary)


def resolve_file(database: Database, name: str, defaults: Defaults, report: BulkReport, outputs: OutputFiles) -> int:
    """Record the decisions of a file, in its order; return the exit code."""
    source = format_name(name)
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
        orders = read_orders(file, source, defaults, lambda start: refuse_unreadable(source, start, _FROM_STDIN))
        first = list(islice(orders, 1))  # a file without lines is refused before old results are dropped
        outputs.empty()
        return _take_all(database, chain(first, orders), _Results(outputs.decisions, report), None)


def _take_all(
    database: Database, orders: Iterable[Order | MalformedOrder], results: _Results, total: int | None
) -> int:
    """Record decisions one by one, and print the report even after an error or a signal."""
    report = results.report
    has_bar = is_watched(quiet=report.quiet) and not report.is_stdout_taken
    try:
        with (
            contextlib.closing(Resolver(database)) as resolver,
            show_progress(total, has_bar) as on_progress,
        ):
            for done, order in enumerate(orders, 1):
                with interrupt.noted():  # a decision that is recorded is reported too
                    if isinstance(order, MalformedOrder):
                        results.add_malformed(order)
                    else:
                        results.add(resolver.resolve(order))
                interrupt.check()
                on_progress(done)
    except (PayprocError, KeyboardInterrupt):
        results.close(is_whole=False)
        raise
    results.close(is_whole=True)
    return _choose_exit_code(results.summary)


def _choose_exit_code(summary: BulkSummary) -> int:
    return DONE_WITH_FINDINGS if summary.refused or summary.malformed else 0


def _ask(planned: BulkSummary, decision: ReviewDecision) -> bool:
    """Show the counts of a plan, and ask whether to carry it out."""
    verb = decision.resolution.value
    for reason in Reason:
        if count := planned.reasons[reason]:
            typer.echo(f"{verb} {format_count(count, 'event')}: {MEANING[reason]} ({reason.value})", err=True)
    if planned.against_table:
        illegal = format_count(planned.against_table, "event")
        typer.echo(f"{illegal} against the table: no legal step from the payment's state at that moment", err=True)
    if planned.refused:
        typer.echo(f"refuse {format_count(planned.refused, 'flag')}, which can only be dismissed", err=True)
    whole = f"{verb} {format_count(planned.resolved, 'event')}"
    note, by = shorten(decision.note), shorten(decision.by)
    return confirm(f'{whole} with the note "{note}", by {by}?')
