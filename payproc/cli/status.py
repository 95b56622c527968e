"""`payproc status`: the database at a glance, for people and for cron."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import make_notifier, open_screen, print_message
from payproc.cli.exits import DONE_WITH_FINDINGS, exit_on_errors
from payproc.cli.options import MAX_LIMIT, DatabaseUrl, Format, FormatOption, Quiet, format_examples, parse_age_option
from payproc.cli.render import MEANING, format_age, format_count, format_time, to_json
from payproc.escape import shorten, unambiguous

if TYPE_CHECKING:  # as in `status`
    from payproc.status import Status

EXAMPLES = format_examples("payproc status", "payproc status --quiet --max-waiting 1000 --max-age 52w")


def status(
    max_waiting: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=MAX_LIMIT, help="Exit with 3 if more events need review."),
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

    Exits with 3 if a limit is passed, with a line on each on stderr.
    """
    with exit_on_errors():
        from payproc.db import location, schema  # psycopg2 and msgspec take 25 ms of CPU, which --help need not pay
        from payproc.status import read_status

        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.require_schema(database)
            found = read_status(database)
        now = datetime.now(timezone.utc)
        if output_format is not Format.TABLE:
            typer.echo(to_json(found, output_format))
        else:
            open_screen().print(_describe(found, now))
        passed = list(_find_passed(found, now, max_waiting, max_age))
        for line in passed:
            print_message(line)
    raise typer.Exit(DONE_WITH_FINDINGS if passed else 0)


def _find_passed(found: "Status", now: datetime, max_waiting: int | None, max_age: timedelta | None) -> Iterator[str]:
    """Yield a line on each limit that is passed."""
    if max_waiting is not None and found.waiting.events > max_waiting:
        verb = "needs" if found.waiting.events == 1 else "need"
        yield f"--max-waiting {max_waiting}: {format_count(found.waiting.events, 'event')} {verb} review"
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
    label = f" ({unambiguous(shorten(run.label))})" if run.label else ""
    state = "finished" if run.finished_at else "not finished"
    yield f"run {run.run_id}{label}, {format_time(run.started_at)} UTC, {state}: {format_count(run.events, 'event')}"
    if run.malformed:
        yield format_count(run.malformed, "malformed line")
    if count := found.rejected_in_last_run:
        were = "was" if count == 1 else "were"
        yield f"{format_count(count, 'event')} {were} rejected; payproc history --run {run.run_id} --outcome REJECT"


def _describe_unfinished(found: "Status") -> str:
    if not found.unfinished_runs:
        return "none"
    return f"{'run' if len(found.unfinished_runs) == 1 else 'runs'} {', '.join(map(str, found.unfinished_runs))}"
