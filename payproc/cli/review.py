"""`payproc review`: the queue of events that need a person's decision."""

from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import Screen, make_notifier, open_screen
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import MAX_LIMIT, DatabaseUrl, Format, FormatOption, Quiet, format_examples
from payproc.cli.render import MIN_WIDE_COLUMNS, format_age, format_origin, to_json_line
from payproc.cli.rules import MEANING
from payproc.cli.table import Column, Row, Styled
from payproc.escape import cell_text
from payproc.logic import OUTCOME_OF, Outcome, Reason

if TYPE_CHECKING:  # as in `review`
    from payproc.review import Review

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
    [[0, 1], [3, 2, 5], [4, 6]],
)
"""The widest first; that of a row a line is for wide screens."""

_REVIEW_REASONS = [reason.value for reason in Reason if OUTCOME_OF[reason] is Outcome.MANUAL_REVIEW]


def _parse_reason(text: str) -> str:
    """Return a reason for review, given in any case. Raise BadParameter for another text."""
    if text.lower() not in _REVIEW_REASONS:
        raise typer.BadParameter(f"'{text}' is not one of {', '.join(map(repr, _REVIEW_REASONS))}")
    return text.lower()


def review(
    output_format: FormatOption = Format.TABLE,
    reason: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            parser=_parse_reason,
            autocompletion=lambda: _REVIEW_REASONS,
            help="Only events with this reason, as predecessor_missing.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only the N oldest.")] = None,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the events that need review, the oldest first.

    As JSON, one object a line.
    """
    with exit_on_errors():
        from payproc.db import location, schema  # psycopg2 and msgspec take 25 ms of CPU, which --help need not pay
        from payproc.review import open_reviews

        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.require_schema(database)
            reviews = open_reviews(database, Reason(reason) if reason else None, limit)
            if output_format is Format.JSON:
                for each in reviews:
                    typer.echo(to_json_line(each))
            elif not _print_queue(open_screen(), reviews, datetime.now(timezone.utc)):
                typer.echo("no events need review" + (f" with the reason {reason}" if reason else ""))


def _print_queue(screen: Screen, reviews: "Iterable[Review]", now: datetime) -> bool:
    """Print the queue; return whether it has any review."""
    iterator = iter(reviews)
    if (first := next(iterator, None)) is None:
        return False
    rows = (_make_row(each, now) for each in chain((first,), iterator))
    layouts = _LAYOUTS if screen.width >= MIN_WIDE_COLUMNS else _LAYOUTS[1:]
    screen.print_table(_COLUMNS, rows, layouts=layouts)
    return True


def _make_row(review: "Review", now: datetime) -> Row:
    event, payment = cell_text(review.event_id), cell_text(review.payment_id)
    kind, state = review.type.value, Styled(review.state.value, "bold")
    why, age, origin = MEANING[review.reason], format_age(now - review.recorded_at), format_origin(review)
    return event, payment, state, kind, why, age, origin
