"""`payproc history`: the entries of all payments, by run, outcome, person and time."""

import sys
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import Screen, make_notifier, open_screen, report_progress, show_progress
from payproc.cli.entries import HISTORY_COLUMNS, choose_history_layouts, make_history_row
from payproc.cli.exits import exit_on_errors
from payproc.cli.files import identify_file
from payproc.cli.options import (
    MAX_LIMIT,
    DatabaseUrl,
    ListingFormat,
    ListingFormatOption,
    Quiet,
    check_text,
    format_examples,
    parse_time_option,
)
from payproc.cli.render import MIN_WIDE_COLUMNS, to_json_line
from payproc.errors import WrongUsage
from payproc.logic import EventType, Outcome, Reason

if TYPE_CHECKING:  # as in `history`
    from payproc.history import PaymentEntry

EXAMPLES = format_examples(
    "payproc history --since 7d --kind resolution",
    "payproc history --run 1 --outcome REJECT",
    "payproc history --limit 20 --format json",
)


class Kind(str, Enum):
    """Kind of an entry."""

    EVENT = "event"
    RESOLUTION = "resolution"
    CORRECTION = "correction"
    CONFLICT = "conflict"


def history(
    context: typer.Context,
    run: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only entries that this run recorded.")
    ] = None,
    outcome: Annotated[
        Outcome | None, typer.Option(metavar="OUTCOME", case_sensitive=False, help="Only events with this outcome.")
    ] = None,
    reason: Annotated[
        Reason | None, typer.Option(metavar="REASON", case_sensitive=False, help="Only events with this reason.")
    ] = None,
    event_type: Annotated[
        EventType | None, typer.Option("--type", metavar="TYPE", case_sensitive=False, help="Only events of this type.")
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(metavar="KIND", case_sensitive=False, help="Only event, resolution, correction or conflict."),
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Only decisions of this person.")] = None,
    payment: Annotated[str | None, typer.Option(metavar="PAYMENT_ID", help="Only entries of this payment.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", parser=parse_time_option, help="Recorded then or later: 2026-11-18, 7d, 12h."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(metavar="TIME", parser=parse_time_option, help="Recorded before then.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only the N newest.")] = None,
    output_format: ListingFormatOption = ListingFormat.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the entries of all payments, the oldest first.

    Times are of recording, in UTC; an age counts back from now. A conflict has the outcome REJECT,
    and a duplicate with other content the outcome IGNORE. As JSON, one object a
    line; as CSV, the same fields.
    """
    with exit_on_errors():
        from payproc.cli.listings import print_listing  # msgspec takes 6 ms of CPU, which --help need not pay
        from payproc.db import location, schema  # psycopg2, 20 ms
        from payproc.history import ENTRY_KINDS, HistoryFilter, count_entries, list_entries

        for name, value in (("--by", by), ("--payment", payment)):
            if value is not None:
                check_text(context, name, value)
        if since is not None and until is not None and since >= until:
            raise WrongUsage(f"--until: {until:%Y-%m-%d %H:%M:%S} UTC is not later than --since, so nothing can fit")
        picked = HistoryFilter(
            run, outcome, reason, event_type, kind.value if kind else None, by, payment, since, until
        )
        is_table = output_format is ListingFormat.TABLE
        # A table on a terminal, or in a pager, is its own progress.
        is_terminal = not quiet and sys.stderr.isatty()
        is_progress_shown = is_terminal and identify_file(sys.stdout.fileno()) is not None
        screen = open_screen()  # before the bar, which takes the place of stdout
        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.require_schema(database)
            total = count_entries(database, picked, limit) if is_progress_shown else None
            with show_progress(total, "entries", is_progress_shown) as on_progress:
                found = list_entries(database, picked, limit, with_payload=not is_table)
                found = report_progress(found, on_progress, is_wait_noted=is_terminal)
                if is_table:
                    _print_table(screen, found)
                else:
                    print_listing(map(_to_line, found), ENTRY_KINDS, output_format)


def _to_line(found: "PaymentEntry") -> str:
    """Return an entry as one JSON object: the payment's id in front of the fields of `show`."""
    return f'{{"payment_id":{to_json_line(found.payment_id)},{to_json_line(found.entry)[1:]}'


def _print_table(screen: Screen, found: "Iterator[PaymentEntry]") -> None:
    if (first := next(found, None)) is None:
        screen.print(["no entries match"])
        return
    rows = (make_history_row(*each) for each in chain((first,), found))
    layouts = choose_history_layouts(is_wide=screen.width >= MIN_WIDE_COLUMNS)
    screen.print_table(HISTORY_COLUMNS, rows, layouts=layouts)
