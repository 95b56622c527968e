"""The filters of the review queue, which `review` and `resolve --all` share.

Belongs here: their options, some of which other listings have too, and the words for them.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.options import check_text, make_number_parser
from payproc.escape import redact, unambiguous
from payproc.logic import OUTCOME_OF, EventType, Outcome, Reason, State

if TYPE_CHECKING:
    from payproc.review_queue import ReviewFilter

_REVIEW_REASONS = [reason.value for reason in Reason if OUTCOME_OF[reason] is Outcome.MANUAL_REVIEW]


def _parse_reason(text: str) -> str:
    """Return a reason for review, given in any case. Raise BadParameter for another text."""
    if text.lower() not in _REVIEW_REASONS:
        raise typer.BadParameter(f"'{text}' is not one of {', '.join(map(repr, _REVIEW_REASONS))}")
    return text.lower()


ReasonFilter = Annotated[
    str | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        parser=_parse_reason,
        autocompletion=lambda: _REVIEW_REASONS,
        help="Only events with this reason, as predecessor_missing.",
    ),
]
TypeFilter = Annotated[
    EventType | None,
    typer.Option("--type", metavar="TYPE", case_sensitive=False, help="Only events of this type, as capture."),
]
StateFilter = Annotated[
    State | None,
    typer.Option("--state", metavar="STATE", case_sensitive=False, help="Only if the payment is in this state now."),
]
PaymentFilter = Annotated[
    str | None, typer.Option("--payment", metavar="PAYMENT_ID", help="Only events of this payment.")
]
RunFilter = Annotated[
    int | None,
    typer.Option("--run", metavar="N", parser=make_number_parser(), help="Only events that this run recorded."),
]
LegalFilter = Annotated[
    bool, typer.Option("--legal-now", help="Only events that the table would apply to the payment's state now.")
]
LimitFilter = Annotated[
    int | None, typer.Option("--limit", metavar="N", parser=make_number_parser(), help="Only the first N.")
]


def make_filter(
    context: typer.Context,
    reason: str | None,
    event_type: EventType | None,
    payment: str | None,
    run: int | None,
    state: State | None,
    legal_now: bool,
) -> "ReviewFilter":
    """Return the filter of these options.

    Raises WrongUsage for a payment that is empty, an option or not UTF-8.
    """
    from payproc.review_queue import ReviewFilter  # late

    if payment is not None:
        check_text(context, "--payment", payment)
    return ReviewFilter(Reason(reason) if reason else None, event_type, payment, run, state, legal_now)


def describe_no_reviews(filters: "ReviewFilter") -> str:
    """Return the line for a queue without events that the filters pick."""
    given = [
        ("reason", filters.reason and filters.reason.value),
        ("type", filters.type and filters.type.value),
        ("payment", filters.payment_id and redact(unambiguous(filters.payment_id))),
        ("run", filters.run_id and str(filters.run_id)),
        ("state", filters.state and filters.state.value),
    ]
    conditions = [f"{name} {value}" for name, value in given if value]
    if filters.legal_now:
        conditions.append("legal now")
    return "no events need review" + (f" ({', '.join(conditions)})" if conditions else "")
