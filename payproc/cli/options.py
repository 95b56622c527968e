"""Options that several commands share: their types, their limits, and checks of their values.

Belongs here: an option or a check that two or more commands use. Every other option is in the file
of its command.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Annotated, Any

import typer

from payproc.errors import WrongUsage
from payproc.escape import MAX_TEXT_CHARACTERS
from payproc.moments import parse_age, parse_moment

MAX_NUMBER = 1_000_000_000
"""Largest number of most options: beyond any queue, and within the range of PostgreSQL's LIMIT."""


class Format(str, Enum):
    """Format of one result."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class ListingFormat(str, Enum):
    """Format of a listing. JSON has one object a line here, like JSONL."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="PostgreSQL to use; else DATABASE_URL, else .env, else the embedded one.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--format", case_sensitive=False, help="Output for a person or for a script.")
]
ListingFormatOption = Annotated[
    ListingFormat,
    typer.Option("--format", case_sensitive=False, help="Output for a person, a script or a spreadsheet."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and requested output.")]


def make_number_parser(least: int = 1, most: int = MAX_NUMBER) -> Callable[[str], int]:
    """Return the parser of a whole number. Typer's would print `[1<=x<=1000000000]` in the help."""

    def parse_number(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (number := int(text)) <= most:
                return number
        raise typer.BadParameter(f"expected a whole number from {least:,} to {most:,}")

    return parse_number


def parse_age_option(text: str) -> timedelta:
    """Return an age. Raise BadParameter for another text."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_time_option(text: str) -> datetime:
    """Return a time in UTC; an age counts from now. Raise BadParameter for another text."""
    try:
        return parse_moment(text, datetime.now(timezone.utc))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def format_examples(*commands: str) -> str:
    """Return the examples that end a command's help. The leading \b prevents rewrapping."""
    return "\n".join(["\b", "Examples:" if commands[1:] else "Example:", *(f"  {command}" for command in commands)])


def list_option_names(command: Any) -> list[str]:
    """Return all options of a command, also the short ones and those that begin with --no-."""
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return [*(name for option in options for name in (*option.opts, *option.secondary_opts)), "--help", "-h"]


def check_text(context: typer.Context, name: str, value: str) -> str:
    """Return a text without the blanks around it.

    Raises WrongUsage if it is empty, too long, an option or not UTF-8.
    """
    refuse_option(context, name, value)
    if not value.strip():
        raise WrongUsage(f"{name}: empty, expected some text")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise WrongUsage(f"{name}: {len(value):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}")
    refuse_undecodable(name, value)
    return value.strip()


def refuse_option(context: typer.Context, name: str, value: str | None) -> None:
    """Raise WrongUsage for an option as a value, as in `--note --yes`, which Typer accepts."""
    option, _, _ = (value or "").partition("=")
    if option in list_option_names(context.command):
        raise WrongUsage(f"{name}: needs a value, but the option {option} follows it")


def refuse_undecodable(name: str, value: str) -> None:
    """Raise WrongUsage for a value that is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongUsage(f"{name}: is not UTF-8, expected UTF-8 text") from None
