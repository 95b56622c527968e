"""`payproc history`: the entries of all payments, by run, outcome, person and time."""

from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import is_bar_useful, open_screen, report_progress, show_progress
from payproc.cli.database import open_database
from payproc.cli.entries import HISTORY_COLUMNS, HISTORY_LAYOUTS, make_history_row
from payproc.cli.exits import exit_on_errors
from payproc.cli.filters import RunFilter, TypeFilter
from payproc.cli.options import (
    DatabaseUrl,
    ListingFormat,
    ListingFormatOption,
    Quiet,
    check_text,
    format_examples,
    make_number_parser,
    parse_time_option,
)
from payproc.cli.render import to_json_line
from payproc.errors import WrongUsage
from payproc.logic import Outcome, Reason

if TYPE_CHECKING:
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
    run: RunFilter = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only events that the runs with this label recorded.")
    ] = None,
    outcome: Annotated[
        Outcome | None, typer.Option(metavar="OUTCOME", case_sensitive=False, help="Only events with this outcome.")
    ] = None,
    reason: Annotated[
        Reason | None, typer.Option(metavar="REASON", case_sensitive=False, help="Only events with this reason.")
    ] = None,
    event_type: TypeFilter = None,
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
    limit: Annotated[
        int | None, typer.Option(metavar="N", parser=make_number_parser(), help="Only the N newest.")
    ] = None,
    output_format: ListingFormatOption = ListingFormat.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the entries of all payments, the oldest first.

    Times are of recording, in UTC; an age counts back from now. A conflict has the outcome REJECT,
    and a duplicate with other content the outcome IGNORE. As JSON, one object a line; as CSV, the
    same fields.
    """
    with exit_on_errors():
        from payproc.cli.listings import print_listing  # late
        from payproc.history import ENTRY_KINDS, HistoryFilter, count_entries, list_entries

        for name, value in (("--label", label), ("--by", by), ("--payment", payment)):
            if value is not None:
                check_text(context, name, value)
        if since is not None and until is not None and since >= until:
            raise WrongUsage(f"--until: {until:%Y-%m-%d %H:%M:%S} UTC is not later than --since, so nothing can fit")
        picked = HistoryFilter(
            run, label, outcome, reason, event_type, kind.value if kind else None, by, payment, since, until
        )
        is_table = output_format is ListingFormat.TABLE
        has_bar = is_bar_useful(quiet=quiet)
        screen = open_screen()  # before the bar, which takes the place of stdout
        with open_database(database_url, quiet=quiet) as database:
            total = count_entries(database, picked, limit) if has_bar else None
            with show_progress(total, has_bar) as on_progress:
                found = list_entries(database, picked, limit, with_payload=not is_table)
                found = report_progress(found, on_progress, quiet=quiet)
                if is_table:
                    rows = (make_history_row(*each) for each in found)
                    layouts = screen.choose_layouts(HISTORY_LAYOUTS)
                    screen.print_table(HISTORY_COLUMNS, rows, layouts=layouts, empty="no entries match")
                else:
                    print_listing(map(_to_line, found), ENTRY_KINDS, output_format)


def _to_line(found: "PaymentEntry") -> str:
    """Return an entry as one JSON object: the payment's id in front of the fields of `show`."""
    return f'{{"payment_id":{to_json_line(found.payment_id)},{to_json_line(found.entry)[1:]}'
