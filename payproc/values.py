"""Values of options and arguments, converted without pydantic.

What belongs here: text from the command line in, a value of the annotated type out. Typer 0.29 converts each value,
even a missing one, by a pydantic TypeAdapter. No declaration avoids that. Importing pydantic costs more processor time
than all of `payproc show`. Earlier versions of Typer do without it, and nothing here changes them.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, get_args

from typer import BadParameter


def without_pydantic(root: Any) -> Any:
    """Return the command `root`, which from now on converts its values here, as do its commands.

    A parameter of any other type than the ones here keeps Typer's converter, which is right and slow.
    """
    for command in (root, *root.commands.values()):
        command.get_params = partial(_with_converters, command.get_params)
    return root


def _with_converters(get_params: Callable[[Any], list[Any]], context: Any) -> list[Any]:
    """Give the parameters of a command converters from here; --help is among them, which only a context creates."""
    parameters = get_params(context)
    for parameter in parameters:
        if hasattr(parameter, "get_runtime_param") and (convert := _converter(parameter.type_descriptor)):
            parameter.get_runtime_param = _Converter(convert)
    return parameters


def _converter(descriptor: Any) -> Callable[[Any], Any] | None:
    """Return a function that converts one value, or raises ValueError; None if the type is not one of those here."""
    (kind,) = get_args(descriptor.annotation) or (descriptor.annotation,)
    if kind in (bool, str):  # Typer has made a flag a bool already
        return lambda value: value
    if kind is int:
        return lambda value: _number(value, descriptor.parameter_info)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: _choice(value, kind, is_exact=descriptor.parameter_info.case_sensitive)
    return None


def _number(value: str | int, limits: Any) -> int:
    number = int(value)
    if number < limits.min or number > limits.max:
        raise ValueError(f"{value!r} is not in the range from {limits.min} to {limits.max}.")
    return number


def _choice(value: str | Enum, choices: type[Enum], *, is_exact: bool) -> Enum:
    if isinstance(value, choices):  # the default
        return value
    for choice in choices:
        if value == choice.value or (not is_exact and str(value).lower() == choice.value.lower()):
            return choice
    raise ValueError(f"{value!r} is not one of {', '.join(repr(choice.value) for choice in choices)}.")


class _Converter:
    """Stands in for Typer's converter of one parameter; it is both the getter and what the getter returns."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._convert = convert

    def __call__(self) -> "_Converter":
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value or a list of them. Raises BadParameter."""
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        try:
            return [self._convert(each) for each in value] if is_list else self._convert(value)
        except ValueError as error:
            raise BadParameter(str(error), ctx=ctx, param=param) from error
