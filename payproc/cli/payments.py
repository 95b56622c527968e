"""`payproc payments`: payments by state and age."""

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import is_bar_useful, open_screen, report_progress, show_progress
from payproc.cli.database import open_database
from payproc.cli.exits import exit_on_errors
from payproc.cli.filters import LimitFilter
from payproc.cli.options import (
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

if TYPE_CHECKING:
    from payproc.listing import ListedPayment

EXAMPLES = format_examples(
    "payproc payments --state authorized --older-than 7d", "payproc payments --waiting --limit 20"
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
    limit: LimitFilter = None,
    output_format: ListingFormatOption = ListingFormat.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List payments, those longest in their state first.

    As JSON, one object a line; as CSV, the same fields.
    """
    with exit_on_errors():
        from payproc import listing  # late
        from payproc.cli.listings import print_listing

        now = datetime.now(timezone.utc)
        picked = listing.PaymentFilter(state, None if older_than is None else now - older_than, waiting)
        screen = open_screen()  # before the bar, which takes the place of stdout
        has_bar = is_bar_useful(quiet=quiet)
        with open_database(database_url, quiet=quiet) as database:
            total = listing.count_payments(database, picked, limit) if has_bar and not waiting else None
            with show_progress(total, has_bar) as on_progress:
                found = listing.list_payments(database, picked, limit)
                found = report_progress(found, on_progress, quiet=quiet)
                if output_format is not ListingFormat.TABLE:
                    print_listing(map(to_json_line, found), [listing.ListedPayment], output_format)
                else:
                    rows = (_make_row(payment, now) for payment in found)
                    screen.print_table(_COLUMNS, rows, layouts=_LAYOUTS, empty="no payments match")


def _make_row(payment: "ListedPayment", now: datetime) -> Row:
    return (
        cell_text(payment.payment_id),
        Styled(payment.state.value, "bold"),
        format_time(payment.state_since),
        format_age(now - payment.state_since),
        f"{payment.version:,}",
        Styled(f"{payment.waiting:,}", "yellow") if payment.waiting else "0",
    )
