"""`payproc resolve`: record a person's decision about an event that needs review."""

from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import confirm, make_notifier, print_message
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, format_examples, refuse_undecodable
from payproc.cli.people import By, Expect, Note, Yes, check_author, check_note, describe_move, require_consent
from payproc.cli.render import DONE
from payproc.cli.rules import MEANING
from payproc.errors import CannotFinish, WrongUsage
from payproc.escape import printable_json, unambiguous
from payproc.logic import Resolution, State

if TYPE_CHECKING:  # as in `resolve`
    from payproc.review import Review, ReviewDecision

EXAMPLES = format_examples(
    'payproc resolve evt_4004 --dismiss --note "never left the bank"',
    'payproc resolve evt_4005 --apply --note "a sale" --expect refunded --yes',
)


def resolve(
    context: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="As listed by review.", show_default=False)],
    note: Note,
    apply: Annotated[bool, typer.Option("--apply", help="Move the payment to the state that the event names.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Leave the payment as it is.")] = False,
    by: By = None,
    expect: Expect = None,
    yes: Yes = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Record a person's decision about an event that needs review.

    On a terminal it shows the payment's state and the effect of the decision, and asks.
    """
    with exit_on_errors():
        from payproc import review  # psycopg2 and msgspec take 25 ms of CPU, which --help need not pay
        from payproc.db import location, schema

        if apply == dismiss:
            raise WrongUsage("no decision, expected --apply or --dismiss")
        decision = review.ReviewDecision(
            Resolution.APPLY if apply else Resolution.DISMISS,
            check_note(context, note),
            check_author(context, by),
            expect,
        )
        refuse_undecodable("EVENT_ID", event_id)
        require_consent(yes=yes)

        def approve(found: "Review", _: State) -> bool:
            return yes or _ask(found, decision)

        with location.open_database(database_url, make_notifier(quiet)) as database:
            schema.prepare_schema(database, print_message, create=False)
            resolved = review.resolve(database, event_id, decision, approve)
            if resolved is None:
                raise CannotFinish("nothing was changed")
            found, position = resolved
            effect = _describe_effect(found, decision, is_done=True)
            typer.echo(f"{effect} (entry {position}, by {unambiguous(decision.by)})")


def _ask(review: "Review", decision: "ReviewDecision") -> bool:
    typer.echo(_describe_review(review), err=True)
    return confirm(_describe_effect(review, decision, is_done=False) + "?")


def _describe_review(review: "Review") -> str:
    """Return the event and its payment in four lines."""
    moved = "" if review.state is review.state_when_flagged else f", {review.state_when_flagged.value} when it came"
    return "\n".join(
        (
            f"{review.type.value} of payment {unambiguous(review.payment_id)}, event {unambiguous(review.event_id)}",
            f"needs review because {MEANING[review.reason]} ({review.reason.value})",
            f"the payment is {review.state.value} now{moved}",
            f"received: {printable_json(bytes(review.payload).decode())}",
        )
    )


def _describe_effect(review: "Review", decision: "ReviewDecision", *, is_done: bool) -> str:
    """Return the effect of a decision on the payment, before or after it."""
    verb = DONE[decision.resolution] if is_done else decision.resolution.value
    effect = describe_move(review.payment_id, review.state, decision.state_after(review), is_done=is_done)
    return f"{verb} {unambiguous(review.event_id)}: {effect}"
