"""Parts of the commands that record a person's decision: resolve and correct.

Belongs here: their shared options, the checks of their values, and the words for an effect.
"""

import os
import sys
from typing import Annotated

import typer

from payproc.cli.options import check_text
from payproc.errors import CannotFinish, WrongUsage
from payproc.escape import unambiguous
from payproc.logic import State

_NOTE = typer.Option("--note", metavar="TEXT", help="Why; kept with the decision.", show_default=False)
Note = Annotated[str, _NOTE]
OptionalNote = Annotated[str | None, _NOTE]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; default: your login name.", show_default=False)
]
Expect = Annotated[
    State | None,
    typer.Option(metavar="STATE", case_sensitive=False, help="Refuse unless this is the payment's state."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; required without a terminal.")]


def check_note(context: typer.Context, note: str) -> str:
    """Return the value of --note without the blanks around it. Raises WrongUsage for a bad one."""
    return check_text(context, "--note", note)


def check_author(context: typer.Context, by: str | None) -> str:
    """Return the value of --by, or the login name. Raises WrongUsage for a bad one."""
    return check_text(context, "--by", _find_login_name() if by is None else by)


def require_consent(*, yes: bool, advice: str = "and --expect STATE") -> None:
    """Raise WrongUsage without --yes if there is no terminal to ask on."""
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise WrongUsage(f"no terminal to ask on; add --yes, {advice} to be safe")


def describe_move(payment_id: str, before: State, after: State, *, is_done: bool) -> str:
    """Return the effect of a decision on a payment, before or after it."""
    payment = unambiguous(payment_id)
    if after is before:
        return f"{payment} stays {after.value}"
    return f"{payment} {'moved' if is_done else 'moves'} from {before.value} to {after.value}"


def print_recorded(effect: str) -> None:
    """Print the effect of a decision on record. Raises CannotFinish if stdout takes no more."""
    try:
        typer.echo(effect)
    except BrokenPipeError:
        raise
    except OSError as error:
        problem = f"output could not be written: {error.strerror}"
        raise CannotFinish(f"{problem}; the decision is recorded") from None


def _find_login_name() -> str:
    """Return the name of this process's user, which the environment cannot change.

    Raises WrongUsage if the user has none, as in a container with a uid of its own.
    """
    import pwd  # a shared library that only this function needs

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise WrongUsage(f"--by: the uid {os.getuid()} has no login name; add --by NAME") from None
