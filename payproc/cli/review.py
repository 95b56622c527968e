"""`payproc review`: the queue of events that need a person's decision."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import TYPE_CHECKING

import typer

from payproc.cli.console import Screen, make_notifier, open_screen
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
from payproc.cli.options import DatabaseUrl, Format, FormatOption, Quiet, format_examples
from payproc.cli.render import MIN_WIDE_COLUMNS, format_origin, to_json_line
from payproc.cli.rules import MEANING
from payproc.cli.table import GAP, Column, Row, Styled
from payproc.escape import cell_text
from payproc.logic import Reason

if TYPE_CHECKING:  # as in `review`
    from payproc.review import Review
    from payproc.review_queue import QueueCounts

EXAMPLES = format_examples("payproc review", "payproc review --reason repeated_refund --limit 10")

LEGAL_MARK = "; legal now"
"""Mark of an event that the table would apply to the payment's state now."""


def review(
    context: typer.Context,
    output_format: FormatOption = Format.TABLE,
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

    The last line counts all that the filters pick, also beyond --limit. As JSON, one object a line.
    """
    with exit_on_errors():
        from payproc.db import location, schema  # psycopg2 and msgspec take 25 ms of CPU, which --help need not pay
        from payproc.review_queue import QueueCounts, open_reviews

        filters = make_filter(context, reason, event_type, payment, run, state, legal_now)
        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.require_schema(database)
            if output_format is Format.JSON:
                for each in open_reviews(database, filters, limit):
                    typer.echo(to_json_line(each))
                return
            counts = QueueCounts(Counter(), Counter())
            reviews = open_reviews(database, filters, limit, counts)
            if _print_queue(open_screen(), reviews, datetime.now(timezone.utc)):
                typer.echo(_describe_counts(counts))
            else:
                typer.echo(describe_no_reviews(filters))


def _describe_counts(counts: "QueueCounts") -> str:
    """Return the closing line, as in `3 events need review: repeated_refund 2 (1 legal now), flagged 1`."""
    total = sum(counts.waiting.values())
    parts = []
    for reason in Reason:
        if count := counts.waiting[reason]:
            legal = counts.legal[reason]
            parts.append(f"{reason.value} {count:,}" + (f" ({legal:,} legal now)" if legal else ""))
    return f"{total:,} {'event needs' if total == 1 else 'events need'} review: {', '.join(parts)}"


def _print_queue(screen: Screen, reviews: "Iterable[Review]", now: datetime) -> bool:
    """Print the queue; return whether it has any review."""
    iterator = iter(reviews)
    if (first := next(iterator, None)) is None:
        return False
    is_wide = screen.width >= MIN_WIDE_COLUMNS
    rows = (_make_row(each, now, is_wide=is_wide) for each in chain((first,), iterator))
    screen.print_table(_make_columns(screen.width, is_wide=is_wide), rows)
    return True


def _make_columns(width: int, *, is_wide: bool) -> list[Column]:
    """Return columns of fixed widths, so a long queue needs no measuring.

    Events and payments share the rest of the width.
    """
    if is_wide:
        widths = {"Event": 0, "Payment": 0, "Now": 10, "Type": 9, "Why it needs review": 40, "Age": 6, "From": 24}
    else:
        widths = {"Event\nPayment": 0, "Type\nNow": 10, "Why it needs review": 22, "Age\nFrom": 19}
    left = width - sum(widths.values()) - len(GAP) * (len(widths) - 1)
    shared = max(left // sum(not fixed for fixed in widths.values()), 8)
    return [Column(header, fixed or shared) for header, fixed in widths.items()]


def _make_row(review: "Review", now: datetime, *, is_wide: bool) -> Row:
    event, payment = cell_text(review.event_id), cell_text(review.payment_id)
    kind, state = review.type.value, Styled(review.state.value, "bold")
    why = MEANING[review.reason] + (LEGAL_MARK if review.legal_now else "")
    age, origin = _format_age(now - review.recorded_at), format_origin(review)
    if is_wide:
        return event, payment, state, kind, why, age, origin
    return [event, payment], [kind, state], why, [age, origin]


def _format_age(age: timedelta) -> str:
    """Return an age in its largest unit: 12 s, 5 min, 3 h, 9 d."""
    seconds = max(int(age.total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
