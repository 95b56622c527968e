"""What is wrong with the arguments, in one line: where, what, expected against actual, and what may have been meant.

What belongs here: the words for what Typer finds wrong. What is wrong with a value that Typer lets pass, such as a file
that is not there, is said by the command. Arguments may hold anything; who shows the line makes it fit to be shown.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from payproc.logic import OUTCOME_OF, Outcome, Reason

_SIMILARITY = 0.7
"""How much of two names must be the same for one to be a slip of the other. At 0.6, `list` would be `ingest`."""

_ALIASES = {"json": "--format json", "jsonl": "--format json"}
"""What other commands call it."""


def explained(error: Any, arguments: Sequence[str], root: Any) -> str:
    """The line for an error of Typer's, about `arguments` given to the command `root`."""
    command = error.ctx.command if error.ctx else command_of(arguments, root)
    path = root.name if command.name == root.name else f"{root.name} {command.name}"
    return f"{_what(error, arguments, command)}; see {path} --help"


def command_of(arguments: Sequence[str], root: Any) -> Any:
    """The command that the arguments are for; only `--` may come before it."""
    return next((root.commands[each] for each in arguments[:2] if each in root.commands), root)


def option_names(command: Any) -> list[str]:
    """All options of a command, also the short ones."""
    return [
        *(name for each in command.params if each.param_type_name == "option" for name in each.opts),
        *("--help", "-h"),
    ]


def _what(error: Any, arguments: Sequence[str], command: Any) -> str:
    message = error.message
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return _no_such_option(error.option_name, arguments, command)
    if kind == "BadOptionUsage":
        return f"{error.option_name}: {'takes no value' if 'does not take' in message else 'needs a value'}"
    if kind == "MissingParameter":
        return f"{_name(error.param)}: missing"
    if kind == "BadParameter" and error.param is not None:
        return f"{_name(error.param)}: {_bad_value(message, error.param, arguments)}"
    if found := re.fullmatch(r"No such command '(.*?)'\..*", message, re.DOTALL):
        return _no_such_command(found[1], command)
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message, re.DOTALL):
        expected = " and ".join(each.metavar for each in command.params if each.param_type_name == "argument")
        takes_text = any(each.metavar == "TEXT" for each in command.params)
        advice = " (a text with spaces needs quotation marks)" if takes_text else ""
        return f'unexpected "{found[1]}", expected {f"one {expected}" if expected else "no argument"}{advice}'
    return str(message[:1].lower() + message[1:]).rstrip(".")


def _no_such_option(name: str, arguments: Sequence[str], command: Any) -> str:
    known = option_names(command)
    for given in arguments:  # `-help` is refused as `-e`, for it stands for -h -e -l -p
        if re.match("-[^-].", given) and name[1] in given and _near(given, known):
            name = given
    for each in getattr(command, "commands", {}).values():
        if name in option_names(each):
            return f"{name}: belongs after a command, as in {command.name} {each.name} {name}"
    for each in (each.metavar for each in command.params if each.param_type_name == "argument"):
        if _near(name, [each]):
            return f"{name}: no such option, {each} stands by itself"
    meant = _ALIASES.get(name.lstrip("-"), "") if "--format" in known else ""
    return f"{name}: no such option{_meant(meant or _near(name, known))}"


def _no_such_command(name: str, root: Any) -> str:
    meant = _near(name, [*root.commands, *option_names(root)])
    if not meant and Path(name).is_file():
        meant = f"{root.name} ingest {name}"
    return f'"{name}": no such command{_meant(meant)}'


def _bad_value(message: str, param: Any, arguments: Sequence[str]) -> str:
    """What was given, and what was expected."""
    if found := re.search("'(.*)' is not one of (.*)", message, re.DOTALL):
        choices = [_SPELLED.get(each, each) for each in re.findall("'(.*?)'", found[2])]
        if choices == [each.value for each in Reason]:
            choices = [each.value for each in Reason if OUTCOME_OF[each] is Outcome.MANUAL_REVIEW]
        return f'"{found[1]}", expected {_one_of(choices)}'
    kind = getattr(param, "type", param)  # where Typer builds on Click, the range is the type's
    if getattr(kind, "max", None) is not None:
        return f'"{_given(param.opts, arguments)}", expected a whole number from {kind.min:,} to {kind.max:,}'
    return str(message)


_SPELLED = {each.value.lower(): each.value for each in Outcome}
"""Typer names choices in lower case where it takes them in any."""


def _given(names: Sequence[str], arguments: Sequence[str]) -> str:
    """The value that an option got last, in `--option VALUE` or `--option=VALUE`."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, attached = argument.partition("=")
        if name in names:
            value = attached if equals else following
    return value


def _name(param: Any) -> str:
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar)


def _near(given: str, names: Iterable[str]) -> str:
    """The one of the names that `given` is a slip or the beginning of, or nothing."""
    bare = {_bare(name): name for name in names if not re.fullmatch("-.", name)}
    word = _bare(given)
    if not word:
        return ""
    begun = [name for name in bare if name.startswith(word)]
    return next((bare[name] for name in begun or difflib.get_close_matches(word, bare, 1, _SIMILARITY)), "")


def _bare(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()


def _meant(name: str) -> str:
    return f" (did you mean {name}?)" if name else ""


def _one_of(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
