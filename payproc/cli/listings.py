"""Listings for programs: one JSON object a line, or CSV with a header.

Belongs here: the form of a listing that a program reads, the same for every command. Tables for
people are in the file of their command.

CSV has the fields of JSON under the same names. A field with fields of its own becomes a column
for each, as in `recorded.type`; a list, and the payload, stay JSON. A row is always one line,
because text is escaped as on a terminal. A spreadsheet takes a cell that begins with =, +, - or @
for a formula, so such a text gets an apostrophe in front
(https://owasp.org/www-community/attacks/CSV_Injection). So does a text that begins with one, and a
backslash is doubled, so two different texts never look the same.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import msgspec
import typer

from payproc.cli.options import ListingFormat
from payproc.escape import unambiguous
from payproc.logic import Outcome

_MARKED = ("=", "+", "-", "@", "'")
"""Beginnings of a text that gets an apostrophe in front."""

_INNER: dict[str, Sequence[str]] = {
    "outcomes": [outcome.value for outcome in Outcome],
    "recorded": ["payment_id", "type"],
}
"""Fields that are split into a column for each of their own fields."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def print_listing(lines: Iterable[str], kinds: Sequence[type[msgspec.Struct]], output_format: ListingFormat) -> None:
    """Print a listing, given as one JSON object a line.

    `kinds` are the structs behind the objects. Their fields, in this order, are the columns of CSV.
    """
    if output_format is not ListingFormat.CSV:
        for line in lines:
            typer.echo(line)
        return
    columns = list_columns(kinds)
    stdout = SimpleNamespace(write=partial(typer.echo, nl=False))  # sys.stdout may be the progress bar
    writer = csv.writer(stdout, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        cells = dict(_split(line))
        writer.writerow([cells.get(column, "") for column in columns])


def list_columns(kinds: Sequence[type[msgspec.Struct]]) -> list[str]:
    """Return the columns of CSV: the fields of all kinds, payment_id first and payload last."""
    columns: dict[str, None] = dict.fromkeys(["payment_id"] if len(kinds) > 1 else [])
    for kind in kinds:
        if tag := kind.__struct_config__.tag_field:
            columns[tag] = None
        for field in msgspec.structs.fields(kind):
            inner = _INNER.get(field.name)
            columns |= dict.fromkeys([f"{field.name}.{name}" for name in inner] if inner else [field.name])
    return sorted(columns, key="payload".__eq__)


def _split(line: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the columns and cells of a JSON object."""
    for name, value in _decode(line).items():
        text = bytes(value).decode()
        if name in _INNER:
            yield from _split(text, f"{name}.")
        elif text != "null":
            yield prefix + name, _quote(msgspec.json.decode(text)) if text.startswith('"') else text


def _quote(text: str) -> str:
    shown = unambiguous(text)
    return f"'{shown}" if shown.startswith(_MARKED) else shown
