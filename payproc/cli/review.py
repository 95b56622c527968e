"""`payproc review`: the queue of events that need a person's decision."""

from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import typer

from payproc.cli.console import open_screen
from payproc.cli.database import open_database
from payproc.cli.exits import exit_on_errors
from payproc.cli.filters import (
    LegalFilter,
    LimitFilter,
    PaymentFilter,
    ReasonFilter,
    RunFilter,
    StateFilter,
    TypeFilter,
    describe_no_reviews,
    make_filter,
)
from payproc.cli.options import DatabaseUrl, ListingFormat, ListingFormatOption, Quiet, format_examples
from payproc.cli.render import MEANING, format_age, format_count, format_origin, to_json_line
from payproc.cli.table import Column, Row, Styled
from payproc.cli.wrap import join_parts
from payproc.escape import cell_text
from payproc.logic import Reason

if TYPE_CHECKING:
    from payproc.review import Review
    from payproc.review_queue import QueueCounts

EXAMPLES = format_examples("payproc review", "payproc review --reason repeated_refund --limit 10")

_COLUMNS = (
    Column("Event", is_id=True),
    Column("Payment", is_id=True),
    Column("Now"),
    Column("Type"),
    Column("Why it needs review"),
    Column("Age"),
    Column("From"),
)

_LAYOUTS = (
    [[0], [1], [2], [3], [4], [5], [6]],
    [[0, 1], [3, 2], [4], [5, 6]],
    [[0, 1], [3, 2], [4, 6], [5]],
    [[0, 1], [3, 2, 5], [4, 6]],
    [[0, 1, 6], [3, 2, 5], [4]],
)

LEGAL_MARK = "; legal now"
"""Mark of an event that the table would apply to the payment's state now."""


def review(
    context: typer.Context,
    output_format: ListingFormatOption = ListingFormat.TABLE,
    reason: ReasonFilter = None,
    event_type: TypeFilter = None,
    state: StateFilter = None,
    payment: PaymentFilter = None,
    run: RunFilter = None,
    legal_now: LegalFilter = False,
    limit: LimitFilter = None,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the events that need review, the oldest first.

    It ends with the counts of all that the filters pick, also beyond --limit. As JSON, one object a
    line; as CSV, the same fields.
    """
    with exit_on_errors():
        from payproc.cli.listings import print_listing  # late
        from payproc.review import Review
        from payproc.review_queue import QueueCounts, open_reviews

        filters = make_filter(context, reason, event_type, payment, run, state, legal_now)
        with open_database(database_url, quiet=quiet) as database:
            if output_format is not ListingFormat.TABLE:
                print_listing(map(to_json_line, open_reviews(database, filters, limit)), [Review], output_format)
                return
            counts = QueueCounts(Counter(), Counter())
            screen, now = open_screen(), datetime.now(timezone.utc)
            rows = (_make_row(each, now) for each in open_reviews(database, filters, limit, counts))
            layouts = screen.choose_layouts(_LAYOUTS)
            screen.print_table(_COLUMNS, rows, layouts=layouts, empty=describe_no_reviews(filters))
            if counts.waiting:
                screen.print(join_parts(_describe_counts(counts), ", ", screen.width))


def _describe_counts(counts: "QueueCounts") -> list[str]:
    """Return the counts, as in `2 events need review: repeated_refund 2 (1 legal now)`."""
    total = format_count(sum(counts.waiting.values()), "event needs", "events need")
    parts = []
    for reason in Reason:
        if count := counts.waiting[reason]:
            legal = counts.legal[reason]
            parts.append(f"{reason.value} {count:,}" + (f" ({legal:,} legal now)" if legal else ""))
    parts[0] = f"{total} review: {parts[0]}"
    return parts


def _make_row(review: "Review", now: datetime) -> Row:
    event, payment = cell_text(review.event_id), cell_text(review.payment_id)
    kind, state = review.type.value, Styled(review.state.value, "bold")
    why = MEANING[review.reason] + (LEGAL_MARK if review.legal_now else "")
    age, origin = format_age(now - review.recorded_at), format_origin(review)
    return event, payment, state, kind, why, age, origin
