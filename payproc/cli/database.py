"""The database of a command: opened by its options, with the schema that the command needs."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from payproc.cli.console import make_notifier, print_message

if TYPE_CHECKING:
    from payproc.db.connection import Database


@contextlib.contextmanager
def open_database(url: str | None, *, quiet: bool, is_written: bool = False) -> Iterator["Database"]:
    """Open the database to read its records, or to write decisions of people.

    Raises CannotFinish if it has no schema, or one of another version that cannot be upgraded here.
    """
    from payproc.db import location, schema  # late

    with location.open_database(url, make_notifier(quiet)) as database:
        if is_written:
            schema.prepare_schema(database, print_message, create=False)
        else:
            schema.require_schema(database)
        yield database
