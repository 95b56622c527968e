"""`payproc resolve`: record a person's decision about an event that needs review."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import confirm, make_notifier, print_message
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, format_examples, refuse_option, refuse_undecodable
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
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the decision.", show_default=False)],
    apply: Annotated[bool, typer.Option("--apply", help="Move the payment to the state that the event names.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Leave the payment as it is.")] = False,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides; default: your login name.", show_default=False)
    ] = None,
    expect: Annotated[
        State | None,
        typer.Option(metavar="STATE", case_sensitive=False, help="Refuse unless this is the payment's state."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; required without a terminal.")] = False,
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
            _check_text(context, "--note", note),
            _check_text(context, "--by", _login_name() if by is None else by),
            expect,
        )
        refuse_undecodable("EVENT_ID", event_id)
        if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise WrongUsage("no terminal to ask on; add --yes, and --expect STATE to be safe")

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


def _check_text(context: typer.Context, name: str, value: str) -> str:
    """Return a text without the blanks around it.

    Raises WrongUsage if it is empty, an option or not UTF-8.
    """
    refuse_option(context, name, value)
    if not value.strip():
        raise WrongUsage(f"{name}: empty, expected some text")
    refuse_undecodable(name, value)
    return value.strip()


def _login_name() -> str:
    """Return the name of this process's user, which the environment cannot change."""
    import pwd  # a shared library that only this function needs

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


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
    state_after = decision.state_after(review)
    verb = DONE[decision.resolution] if is_done else decision.resolution.value
    payment = unambiguous(review.payment_id)
    if state_after is review.state:
        effect = f"{payment} stays {state_after.value}"
    else:
        effect = f"{payment} {'moved' if is_done else 'moves'} from {review.state.value} to {state_after.value}"
    return f"{verb} {unambiguous(review.event_id)}: {effect}"
