"""`payproc status`: the database at a glance, for people and for cron."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import open_screen, print_message
from payproc.cli.database import open_database
from payproc.cli.exits import DONE_WITH_FINDINGS, exit_on_errors
from payproc.cli.options import (
    DatabaseUrl,
    Format,
    FormatOption,
    Quiet,
    format_examples,
    make_number_parser,
    parse_age_option,
)
from payproc.cli.render import MEANING, describe_rejected, format_age, format_count, format_time, to_json
from payproc.escape import shorten, unambiguous

if TYPE_CHECKING:
    from payproc.status import Status

EXAMPLES = format_examples("payproc status", "payproc status --quiet --max-waiting 200 --max-age 2d")


def status(
    max_waiting: Annotated[
        int | None,
        typer.Option(metavar="N", parser=make_number_parser(0), help="Exit with 3 if more events need review."),
    ] = None,
    max_age: Annotated[
        timedelta | None,
        typer.Option(metavar="AGE", parser=parse_age_option, help="Exit with 3 if one waits longer: 7d, 12h, 30m."),
    ] = None,
    output_format: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show payments by state, pending reviews, and the last run.

    Exits with 3 if a limit is exceeded; stderr has a line for each.
    """
    with exit_on_errors():
        from payproc.status import read_status  # late

        with open_database(database_url, quiet=quiet) as database:
            found = read_status(database)
        now = datetime.now(timezone.utc)
        if output_format is not Format.TABLE:
            typer.echo(to_json(found, output_format))
        else:
            open_screen().print(_describe(found, now))
        exceeded = list(_check_limits(found, now, max_waiting, max_age))
        for line in exceeded:
            print_message(line)
    raise typer.Exit(DONE_WITH_FINDINGS if exceeded else 0)


def _check_limits(found: "Status", now: datetime, max_waiting: int | None, max_age: timedelta | None) -> Iterator[str]:
    """Yield a line for each limit that is exceeded."""
    if max_waiting is not None and found.waiting.events > max_waiting:
        yield f"--max-waiting {max_waiting}: {format_count(found.waiting.events, 'event needs', 'events need')} review"
    oldest = found.oldest_waiting
    if max_age is not None and oldest is not None and now - oldest.recorded_at > max_age:
        age = format_age(now - oldest.recorded_at)
        yield f'--max-age {format_age(max_age)}: event "{unambiguous(oldest.event_id)}" has waited for {age}'


def _describe(found: "Status", now: datetime) -> Iterator[str]:
    """Yield the lines of the table: a name, and its value in one line or several."""
    parts = {
        "Database": [found.database],
        "Server": [f"PostgreSQL {found.server}, schema version {found.schema}"],
        "Payments": list(_describe_payments(found)),
        "Need review": list(_describe_waiting(found, now)),
        "Last run": list(_describe_last_run(found)),
        "Unfinished": [_describe_unfinished(found)],
    }
    for name, lines in parts.items():
        for number, line in enumerate(lines):
            yield f"{'' if number else name:<12} {line}"


def _describe_payments(found: "Status") -> Iterator[str]:
    counts = {state: count for state, count in found.payments.items() if count}
    width = len(f"{sum(counts.values()):,}")
    yield f"{sum(counts.values()):>{width},}"
    for state, count in counts.items():
        yield f"{count:>{width},} {state.value}"


def _describe_waiting(found: "Status", now: datetime) -> Iterator[str]:
    if found.oldest_waiting is None:
        yield "none"
        return
    width = len(f"{found.waiting.events:,}")
    yield f"{format_count(found.waiting.events, 'event')}, {found.waiting.legal_now:,} legal now"
    for reason, waiting in found.waiting_by_reason.items():
        legal = f", {waiting.legal_now:,} legal now" if waiting.legal_now else ""
        yield f"{waiting.events:>{width},} {reason.value}: {MEANING[reason]}{legal}"
    oldest = found.oldest_waiting
    yield f"oldest: {unambiguous(oldest.event_id)}, {format_age(now - oldest.recorded_at)}"


def _describe_last_run(found: "Status") -> Iterator[str]:
    if (run := found.last_run) is None:
        yield "none"
        return
    label = f" ({shorten(run.label)})" if run.label else ""
    state = "finished" if run.finished_at else "not finished"
    yield f"run {run.run_id}{label}, {format_time(run.started_at)} UTC, {state}: {format_count(run.events, 'event')}"
    if run.malformed:
        yield format_count(run.malformed, "malformed line")
    if found.rejected_in_last_run:
        yield describe_rejected(found.rejected_in_last_run, run.run_id)


def _describe_unfinished(found: "Status") -> str:
    numbers = found.unfinished_runs
    return f"{'run' if len(numbers) == 1 else 'runs'} {', '.join(map(str, numbers))}" if numbers else "none"
