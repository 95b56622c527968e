"""Values of options and arguments, as Typer would convert them."""

from enum import Enum
from typing import Annotated, Any

import pytest
import typer

from payproc.values import without_pydantic


class Colour(str, Enum):
    RED = "red"
    BLUE = "BLUE"


app = typer.Typer()
seen: dict[str, Any] = {}


@app.callback()
def _options() -> None:
    pass


@app.command()
def paint(
    name: str,
    more: Annotated[list[str] | None, typer.Argument()] = None,
    number: Annotated[int, typer.Option(min=1, max=9)] = 2,
    colour: Annotated[Colour, typer.Option(case_sensitive=False)] = Colour.RED,
    exact: Annotated[list[Colour] | None, typer.Option()] = None,
    flag: Annotated[bool, typer.Option("--flag")] = False,
    ratio: float = 0.5,
) -> None:
    seen.update(locals())


def run(arguments: str, convert: Any = without_pydantic) -> dict[str, Any]:
    """Call the command; return the values that it gets."""
    seen.clear()
    convert(typer.main.get_command(app))(["paint", *arguments.split()], standalone_mode=False)
    return dict(seen)


@pytest.mark.parametrize(
    "arguments",
    [
        "a",
        "a b c --number 9 --flag",
        "a --colour RED --exact red --exact BLUE --ratio 2.5",
        "a --colour blue --number=1",
    ],
)
def test_values_are_those_that_typer_gives(arguments: str) -> None:
    """A type that is not known here, as float, is left to Typer."""
    assert run(arguments) == run(arguments, convert=lambda command: command)


@pytest.mark.parametrize(
    "arguments", ["", "a --number 0", "a --number 10", "a --number x", "a --colour green", "a --exact blue", "a --more"]
)
def test_a_wrong_value_is_a_usage_error_as_with_typer(arguments: str) -> None:
    with pytest.raises(typer.BadParameter.__bases__[0]) as expected:
        run(arguments, convert=lambda command: command)
    with pytest.raises(typer.BadParameter.__bases__[0]) as found:
        run(arguments)
    assert type(found.value) is type(expected.value)
    assert not seen
