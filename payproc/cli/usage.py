"""Wrong usage in one line: Typer's text, with the hints that Typer does not give.

Belongs here: errors that Typer finds in the arguments. The commands check the values that Typer
accepts, such as a missing file. Arguments may hold control characters; the caller makes the line
printable.

Typer depends on Click up to version 0.25 and holds a copy of it since. So the code relies on the
attributes that Click documents (ctx, param, option_name, message), not on a class or a text.
"""

import difflib
import os
import re
from collections.abc import Sequence
from typing import Any

import typer

from payproc.cli.options import list_option_names
from payproc.escape import redact
from payproc.logic import Outcome

UsageError: Any = typer.BadParameter.__base__
"""Base class of every error in the arguments, which has no public name in Typer."""

_SIMILARITY = 0.7
"""Similarity of a name to its misspelling. At 0.6, `--event` would be `--note`."""

_CHOICES = re.compile(r"^('.*') is not one of ", re.DOTALL)

_ALIASES = {"--json": "--format json", "--jsonl": "--format jsonl"}
"""Options of other commands that users try."""


def describe_usage_error(error: Any, arguments: Sequence[str], root: Any) -> str:
    """Return the line for an error in `arguments`, given to the command `root`."""
    command = error.ctx.command if error.ctx else _find_command(arguments, root)
    problem = _describe_problem(error, arguments, command, root)
    if "://" in problem or redact(problem) != problem:
        return "an argument that may hold a password is in the wrong place; a database is named with --database-url"
    path = root.name if command.name == root.name else f"{root.name} {command.name}"
    return f"{problem}{'' if problem.endswith('?') else ';'} see {path} --help"


def _find_command(arguments: Sequence[str], root: Any) -> Any:
    """Return the command that the arguments are for; only `--` may precede it."""
    return next((root.commands[each] for each in arguments[:2] if each in root.commands), root)


def _describe_problem(error: Any, arguments: Sequence[str], command: Any, root: Any) -> str:
    option = getattr(error, "option_name", None)
    if option is not None and option not in list_option_names(command):
        return f"{option}: no such option{_suggest(option, command, root)}"
    if isinstance(error, typer.BadParameter):
        text = _restore_case(_describe_value(error))
        text = text.replace("\n\t", " ")  # the choices of a missing option, a line each
    else:
        text = error.message  # Click 8.5 adds a second "Did you mean" in format_message
        # Path.is_file raises for a name that is too long.
        if command.name == root.name and os.path.isfile(arguments[0]):  # noqa: PTH113
            text += f" Did you mean '{root.name} ingest {arguments[0]}'?"
    return str(text[:1].lower() + text[1:]).rstrip(".")


def _describe_value(error: Any) -> str:
    """Return Typer's text in payproc's form, `--format: unknown 'csv', expected one of …`."""
    text: str = error.format_message()
    option, colon, problem = text.partition(": ")
    if not (colon and text.startswith("Invalid value for ")):
        return text
    name = option.removeprefix("Invalid value for ").split(" / ")[0].strip("'")
    return f"{name}: " + _CHOICES.sub(r"unknown \1, expected one of ", problem)


def _suggest(option: str, command: Any, root: Any) -> str:
    """Return the likely meaning of an unknown option."""
    if command.name == root.name:
        for each in root.commands.values():
            if option in list_option_names(each):
                return f", it belongs after a command, as in {root.name} {each.name} {option}"
    names = list_option_names(command)
    if option in _ALIASES and "--format" in names:
        return f" (did you mean {_ALIASES[option]}?)"
    near = difflib.get_close_matches(option, names, 1, _SIMILARITY)
    return f" (did you mean {near[0]}?)" if near else ""


def _restore_case(text: str) -> str:
    """Return the text with outcomes in upper case, because Typer lists choices in lower case."""
    for outcome in Outcome:
        text = text.replace(f"'{outcome.value.lower()}'", f"'{outcome.value}'")
    return text
