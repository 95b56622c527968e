"""`payproc ingest`: read events, record them, and report the outcomes."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from payproc.cli.console import is_watched, make_notifier, print_message, show_progress
from payproc.cli.exits import DONE_WITH_FINDINGS, exit_on_errors
from payproc.cli.files import OutputFiles, open_outputs
from payproc.cli.options import (
    DatabaseUrl,
    Format,
    FormatOption,
    Quiet,
    check_text,
    format_examples,
    make_number_parser,
    refuse_option,
)
from payproc.cli.render import format_count, to_json
from payproc.cli.summary import NEWEST_FIRST, describe_next_steps, is_probably_newest_first, print_summary
from payproc.errors import CannotFinish, PayprocError, WrongUsage
from payproc.ingest.sources import FROM_STDIN, check_sources
from payproc.logic import Outcome
from payproc.signals import interrupt

if TYPE_CHECKING:
    from payproc.cli.problems import LineProblems
    from payproc.db.connection import Database
    from payproc.ingest.run import IngestSummary

EXAMPLES = format_examples(
    "payproc ingest day.jsonl",
    "zcat dump.jsonl.gz | payproc ingest --malformed to_mend.jsonl -",
    "payproc ingest day.jsonl --dry-run --fail-on REJECT",
)

MAX_WORKERS = 64
"""Largest --workers. More connections than the server has cores hurt; far more are a typo."""

NOT_JSON_LINES = (
    'no line is an object, expected lines such as {"event_id": "evt_1", "payment_id": "pay_1", "type": "capture"}'
)
"""Printed once if no line is a JSON object, and none has a command that mends it."""

_OUTCOME_VERBS = {
    Outcome.APPLY: "applied",
    Outcome.IGNORE: "ignored",
    Outcome.REJECT: "rejected",
    Outcome.MANUAL_REVIEW: "sent to review",
}


def ingest(
    context: typer.Context,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="JSON Lines, in this order; - or a pipe for stdin.")
    ] = None,
    output_format: FormatOption = Format.TABLE,
    decisions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the result of each line as a JSON object; - for stdout."),
    ] = None,
    malformed: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write malformed lines unchanged, to mend and ingest again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the same report and write nothing.")] = False,
    fail_on: Annotated[
        list[Outcome] | None,
        typer.Option(
            metavar="OUTCOME",
            case_sensitive=False,
            help="Exit with 3 if APPLY, IGNORE, REJECT or MANUAL_REVIEW occurs; may be repeated.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name of the run, for runs and history.", show_default=False)
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=make_number_parser(most=MAX_WORKERS),
            help=f"Database connections, 1 to {MAX_WORKERS}; payments are split among them.",
        ),
    ] = 2,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Process payment events and record the decisions.

    Each event has its own transaction. Running the same input again is safe: recorded events are
    duplicates.
    """
    with exit_on_errors():
        from payproc.db import location  # late

        names = _choose_inputs(files)
        for option, name in (("--decisions", decisions), ("--malformed", malformed)):
            refuse_option(context, option, name)
        label = None if label is None else check_text(context, "--label", label)
        report = IngestReport(output_format, dry_run, quiet, "-" in (decisions, malformed), malformed is not None)
        with (
            open_outputs(names, decisions, malformed) as outputs,
            location.open_database(database_url, make_notifier(quiet), interruptible=False) as database,
        ):
            summary = _run(database, names, workers, label, outputs, report)
        code = _choose_exit_code(summary, interrupt.take(), fail_on or [])
    raise typer.Exit(code)


def _choose_inputs(files: list[str] | None) -> list[str]:
    if not files and sys.stdin.isatty():
        raise WrongUsage("nothing to ingest: name a file, or pipe events in (- reads the terminal)")
    names = files or ["-"]
    check_sources(names)
    return names


class IngestReport(NamedTuple):
    """The options that decide which parts of the result are printed, and where."""

    output_format: Format
    dry_run: bool
    quiet: bool
    is_stdout_taken: bool
    """--decisions or --malformed go to stdout, so the summary goes to stderr."""
    keeps_malformed: bool
    """--malformed keeps the lines that are only counted here."""

    def print(
        self, summary: "IngestSummary", problems: "LineProblems", database: "Database", *, is_whole: bool
    ) -> None:
        """Print everything that follows the last line of the input."""
        problems.close("malformed line", "" if self.keeps_malformed else "; --malformed FILE keeps them all")
        if is_whole and problems.are_all_unknown and not (summary.events or self.quiet):
            print_message(NOT_JSON_LINES)
        if self.output_format is not Format.TABLE:
            typer.echo(to_json(summary, self.output_format), err=self.is_stdout_taken)
        elif not self.quiet:
            print_summary(summary, is_whole=is_whole, stderr=self.is_stdout_taken)
        if self.quiet:
            return
        if is_probably_newest_first(summary):
            print_message(NEWEST_FIRST)
        if not self.dry_run:
            from payproc.review import count_open  # late

            waiting = 0
            with contextlib.suppress(CannotFinish):  # best effort: the summary is already printed
                waiting = count_open(database)
            for line in describe_next_steps(summary, waiting):
                typer.echo(line, err=self.is_stdout_taken or self.output_format is not Format.TABLE)


def _run(
    database: "Database",
    names: Sequence[str],
    workers: int,
    label: str | None,
    outputs: OutputFiles,
    report: IngestReport,
) -> "IngestSummary":
    """Ingest the inputs, print the report even after an error or a signal; return the summary."""
    from payproc.cli.problems import LineProblems  # late
    from payproc.db import schema
    from payproc.ingest.run import Ingest, Options

    if not report.dry_run:
        schema.prepare_schema(database, print_message, create=True)
    # The first connection prints a note, so it comes before the progress bar.
    has_schema = not report.dry_run or schema.has_schema(database)
    problems = LineProblems(FROM_STDIN)
    has_bar = is_watched(quiet=report.quiet) and outputs.decisions is not sys.stdout.buffer
    with interrupt.noted() as stop, contextlib.ExitStack() as bar:
        ingesting = Ingest(
            database if has_schema else None,
            names,
            Options(workers, report.dry_run, *outputs, label),
            on_open=outputs.empty,
            on_malformed=problems.add_line,
            on_progress=bar.enter_context(show_progress(_count_bytes(names), has_bar, is_bytes=True)),
        )
        ingesting.summary.database = database.where
        try:
            stop.check()
            ingesting.run(stop)
        except PayprocError as error:
            bar.close()
            if ingesting.summary.lines:  # the counted events are recorded, even if the rest could not be
                report.print(ingesting.summary, problems, database, is_whole=False)
            if stop.signal is None:
                raise
            print_message(str(error))  # a signal to a whole process group may have ended the server as well
        else:
            bar.close()
            report.print(ingesting.summary, problems, database, is_whole=stop.signal is None)
    return ingesting.summary


def _count_bytes(names: Sequence[str]) -> int | None:
    """Return the size of the inputs, or None if one of them is a pipe."""
    if any(name == "-" or not Path(name).is_file() for name in names):
        return None
    return sum(Path(name).stat().st_size for name in names)


def _choose_exit_code(summary: "IngestSummary", stopped_by: int | None, fail_on: Sequence[Outcome]) -> int:
    """Return the exit code, and print the reason for one that is not 0."""
    if stopped_by is not None:
        print_message("interrupted; reported events are recorded, and a rerun is safe")
        return 128 + stopped_by
    counts = {outcome: summary.outcomes[outcome] for outcome in dict.fromkeys(fail_on)}
    if Outcome.REJECT in counts:
        counts[Outcome.REJECT] -= summary.known_conflicts  # a replay of a clean day stays clean
    found = [outcome for outcome, count in counts.items() if count]
    for outcome in found:
        count = format_count(counts[outcome], "event was", "events were")
        print_message(f"--fail-on {outcome.value}: {count} {_OUTCOME_VERBS[outcome]}")
    return DONE_WITH_FINDINGS if found or summary.malformed else 0
