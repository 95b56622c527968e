"""`payproc correct`: record a person's correction of a payment's state."""

from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import confirm
from payproc.cli.database import open_database
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, format_examples, refuse_undecodable
from payproc.cli.people import (
    By,
    Expect,
    Note,
    Yes,
    check_author,
    check_note,
    describe_move,
    print_recorded,
    require_consent,
)
from payproc.cli.render import format_count, format_time
from payproc.errors import CannotFinish, WrongUsage
from payproc.escape import unambiguous
from payproc.logic import State

if TYPE_CHECKING:
    from payproc.corrections import Standing

EXAMPLES = format_examples(
    'payproc correct pay_coat --to refunded --note "the refund did go out"',
    'payproc correct pay_coat --to captured --note "it bounced" --expect refunded',
)


def correct(
    context: typer.Context,
    payment_id: Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="As in the events.", show_default=False)],
    to: Annotated[
        State,
        typer.Option(
            metavar="STATE", case_sensitive=False, help="The right state, not the present one.", show_default=False
        ),
    ],
    note: Note,
    by: By = None,
    expect: Expect = None,
    yes: Yes = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Record a person's correction of a payment's state.

    For books that no event and no review can put right. On a terminal it shows the payment and the
    effect, and asks.
    """
    with exit_on_errors():
        from payproc import corrections  # late

        correction = corrections.Correction(to, check_note(context, note), check_author(context, by), expect)
        refuse_undecodable("PAYMENT_ID", payment_id)
        if expect is to:
            raise WrongUsage(f"--to and --expect: both are {to.value}, expected two different states")
        require_consent(yes=yes)

        def approve(standing: "Standing") -> bool:
            return yes or _ask(standing, to)

        with open_database(database_url, quiet=quiet, is_written=True) as database:
            corrected = corrections.correct(database, payment_id, correction, approve)
            if corrected is None:
                raise CannotFinish("nothing was changed")
            standing, position = corrected
            effect = describe_move(payment_id, standing.state, to, is_done=True)
            print_recorded(f"corrected: {effect} (entry {position}, by {unambiguous(correction.by)})")


def _ask(standing: "Standing", to: State) -> bool:
    typer.echo(_describe_standing(standing), err=True)
    return confirm(f"correct: {describe_move(standing.payment_id, standing.state, to, is_done=False)}?")


def _describe_standing(standing: "Standing") -> str:
    """Return the payment in two lines."""
    return (
        f"payment {unambiguous(standing.payment_id)} is {standing.state.value} "
        f"since {format_time(standing.state_since)} UTC\n"
        f"its history has {format_count(standing.version, 'entry', 'entries')}: "
        f"{format_count(standing.rejected, 'event')} rejected, {format_count(standing.waiting, 'pending review')}"
    )
