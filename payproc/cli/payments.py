"""`payproc payments`: payments by state and age."""

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import Screen, make_notifier, open_screen, report_progress, show_progress
from payproc.cli.exits import exit_on_errors
from payproc.cli.files import identify_file
from payproc.cli.options import (
    MAX_LIMIT,
    DatabaseUrl,
    ListingFormat,
    ListingFormatOption,
    Quiet,
    format_examples,
    parse_age_option,
)
from payproc.cli.render import format_age, format_time, to_json_line
from payproc.cli.table import Column, Row, Styled
from payproc.escape import cell_text
from payproc.logic import State

if TYPE_CHECKING:  # as in `payments`
    from payproc.listing import ListedPayment

EXAMPLES = format_examples(
    "payproc payments --state authorized --older-than 0d", "payproc payments --waiting --limit 20"
)

_COLUMNS = (
    Column("Payment", is_id=True),
    Column("State"),
    Column("Since (UTC)"),
    Column("Age", is_number=True),
    Column("Entries", is_number=True),
    Column("Waiting", is_number=True),
)

_LAYOUTS = ([[0], [1], [2], [3], [4], [5]], [[0], [1], [2, 3], [4, 5]], [[0, 1], [2, 3], [4, 5]])


def payments(
    state: Annotated[
        State | None, typer.Option(metavar="STATE", case_sensitive=False, help="Only payments in this state.")
    ] = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(metavar="AGE", parser=parse_age_option, help="Only those longer in their state: 7d, 12h, 30m."),
    ] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only payments with pending reviews.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only the N oldest.")] = None,
    output_format: ListingFormatOption = ListingFormat.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List payments, those longest in their state first.

    As JSON, one object a line; as CSV, the same fields.
    """
    with exit_on_errors():
        from payproc import listing  # psycopg2 and msgspec take 25 ms of CPU, which --help need not pay
        from payproc.cli.listings import print_listing
        from payproc.db import location, schema

        now = datetime.now(timezone.utc)
        picked = listing.PaymentFilter(state, None if older_than is None else now - older_than, waiting)
        screen = open_screen()  # before the bar, which takes the place of stdout
        # A table on a terminal, or in a pager, is its own progress.
        is_terminal = not quiet and sys.stderr.isatty()
        is_progress_shown = is_terminal and identify_file(sys.stdout.fileno()) is not None
        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.require_schema(database)
            has_total = is_progress_shown and not waiting
            total = listing.count_payments(database, picked, limit) if has_total else None
            with show_progress(total, "payments", is_progress_shown) as on_progress:
                found = listing.list_payments(database, picked, limit)
                found = report_progress(found, on_progress, is_wait_noted=is_terminal)
                if output_format is not ListingFormat.TABLE:
                    print_listing(map(to_json_line, found), [listing.ListedPayment], output_format)
                else:
                    _print_payments(screen, found, now)


def _print_payments(screen: Screen, found: "Iterator[ListedPayment]", now: datetime) -> None:
    if (first := next(found, None)) is None:
        screen.print(["no payments match"])
        return
    rows = (_make_row(payment, now) for payment in chain((first,), found))
    screen.print_table(_COLUMNS, rows, layouts=_LAYOUTS)


def _make_row(payment: "ListedPayment", now: datetime) -> Row:
    return (
        cell_text(payment.payment_id),
        Styled(payment.state.value, "bold"),
        format_time(payment.state_since),
        format_age(now - payment.state_since),
        f"{payment.version:,}",
        Styled(f"{payment.waiting:,}", "yellow") if payment.waiting else "0",
    )
