"""The schema: created, upgraded, and required by the commands.

Belongs here: creating the schema, upgrading it, and the check before a command.

The files in versions/ lead from each version to the next. Each step is one transaction under an
advisory lock, so two commands cannot take the same step, and a crash leaves the version before it.
If only the procedure or the views differ, `init` or the owner's next command that writes replaces
them.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import psycopg2.errors
import psycopg2.extensions

from payproc.db import citus
from payproc.db.connection import Database
from payproc.db.errors import is_about_privileges
from payproc.db.mark import VERSION, FoundSchema, Mark, make_mark_statement, read_schema
from payproc.db.views import VIEWS, read_views
from payproc.errors import CannotFinish

LOCK_KEY = 0x70617970726F63
"""Key of the advisory lock: "payproc" in ASCII, because all applications of a database share the
keys."""

_FOLDER = Path(__file__).parent
"""The folder of the .sql files. importlib.resources, which also reads archives, imports slower."""

_STATEMENT = re.compile(r"(?:\$(\w+)\$.*?\$\1\$|[^$;]|;(?!\n))+;\n", re.DOTALL)
"""A statement, with the comment above it. It ends with a line, outside of dollar quotes."""


class Step(NamedTuple):
    """One transaction of an upgrade: its summary, its statements, and the mark that it leaves."""

    summary: str
    statements: list[str]
    mark: Mark


def has_schema(database: Database) -> bool:
    """Return whether payproc's schema is there.

    Raises CannotFinish if it is of another version, or something else has its name.
    """
    found = _read(database)
    if found is not None:
        _refuse_other_version(found.mark, database)
    return found is not None


def require_schema(database: Database) -> None:
    """Raise CannotFinish unless payproc's schema is there, in this version."""
    if not has_schema(database):
        _refuse_missing_schema(database)


def prepare_schema(database: Database, note: Callable[[str], None], *, create: bool) -> None:
    """Create or upgrade the schema for a writing command, if allowed; `note` gets a line a change.

    A missing schema is created if `create` is set. The schema of an embedded database is brought up
    to date; a server's never is. Raises CannotFinish if the schema cannot be used as it is.
    """
    found = _read(database)
    if found is None:
        if not create:
            _refuse_missing_schema(database)
        bring_up(database)
        return
    if found.unlogged:
        raise CannotFinish(
            f"the table payproc.{found.unlogged[0]} of the database {database.where} is UNLOGGED, so a crash would "
            f"empty it; run ALTER TABLE payproc.{found.unlogged[0]} SET LOGGED"
        )
    if not (database.is_embedded and found.mark.version < VERSION):
        _refuse_other_version(found.mark, database)
    if _is_current(found):
        return
    try:
        for summary in bring_up(database):
            note(summary)
    except CannotFinish as error:
        if found.mark.version != VERSION or not is_about_privileges(error):
            raise
        note(
            "the procedure and the views of the schema payproc differ from this version's; continuing with them; "
            f"their owner {found.owner} can replace them with payproc init"
        )


def bring_up(database: Database, *, for_citus: bool | None = None) -> list[str]:
    """Create the schema or bring it up to date; return a line on each step taken.

    Safe beside another command that does the same. `for_citus` asks for one of the two variants.
    Without it a new schema is for one server, and refused on the coordinator of a cluster. Raises
    CannotFinish if the role lacks a privilege, if the schema is newer, or if it has the other
    variant. Earlier steps are kept.
    """
    done: list[str] = []
    while True:
        with database.transaction() as cursor:
            cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s::bigint)", (LOCK_KEY,))
            found = read_schema(cursor, database.where)
            step = _choose_step(cursor, database, found, for_citus=for_citus)
            if step is None:
                return done
            try:
                cursor.execute("SET LOCAL row_security = off")  # a policy would hide rows; with this it is an error
                for statement in step.statements:
                    cursor.execute(statement)
            except psycopg2.errors.InsufficientPrivilege as error:
                if found is None:
                    raise
                message = (error.diag.message_primary or "").strip()
                raise CannotFinish(
                    f"the schema payproc of the database {database.where} can be brought up to date only by its "
                    f"owner: {message}; run payproc init as {found.owner}"
                ) from error
        done.append(step.summary)
        if step.mark == _make_current_mark(for_citus=step.mark.for_citus):
            return done  # no second look, because a server that changes the procedure's text would make this endless


def list_statements(database: Database, *, for_citus: bool | None) -> Iterator[str]:
    """Yield the statements that `bring_up` would run, one transaction at a time, for `psql -f`."""
    with database.transaction() as cursor:
        found = read_schema(cursor, database.where)
        while (step := _choose_step(cursor, database, found, for_citus=for_citus)) is not None:
            lock = f"SELECT pg_catalog.pg_advisory_xact_lock({LOCK_KEY}::bigint)"
            statements = [
                f"{statement.strip().rstrip(';')};" for statement in ("BEGIN", lock, *step.statements, "COMMIT")
            ]
            yield "\n\n".join((f"-- {step.summary}", *statements))
            found = FoundSchema(step.mark, "", [], [_read_body(for_citus=step.mark.for_citus)], {*VIEWS})


def read_procedure(*, for_citus: bool) -> str:
    """Return the statement of record_decisions.sql."""
    statement = _FOLDER.joinpath("record_decisions.sql").read_text("utf-8")
    statement = statement.replace("payproc.{event_ids}", f"payproc.{citus.name_event_ids(for_citus=for_citus)}")
    return citus.adapt_procedure(statement) if for_citus else statement


def _read(database: Database) -> FoundSchema | None:
    with database.transaction() as cursor:
        found = read_schema(cursor, database.where)
    if found is not None:
        database.for_citus = found.mark.for_citus
    return found


def _is_current(found: FoundSchema) -> bool:
    """Return whether the schema needs no step."""
    for_citus = found.mark.for_citus
    return (
        found.mark == _make_current_mark(for_citus=for_citus)
        and _read_body(for_citus=for_citus) in found.bodies
        and found.views >= {*VIEWS}
    )


def _make_current_mark(*, for_citus: bool) -> Mark:
    """Return the mark of the schema that this payproc creates."""
    import hashlib  # loads OpenSSL, 2 ms that reading commands save

    replaceable = "".join(_list_code(for_citus=for_citus))
    _, create, rest = replaceable.partition("CREATE OR REPLACE")  # without the comment above
    digest = hashlib.sha256(f"{create}{rest}".encode()).hexdigest()[:16]
    return Mark(VERSION, for_citus, digest)


def _read_body(*, for_citus: bool) -> str:
    """Return the procedure's source as the database keeps it."""
    return read_procedure(for_citus=for_citus).split("$procedure$")[1]


def _refuse_missing_schema(database: Database) -> NoReturn:
    raise CannotFinish(f"nothing is recorded: no schema payproc in the database {database.where}")


def _refuse_other_version(mark: Mark, database: Database) -> None:
    """Raise CannotFinish unless the schema has this version."""
    has = f"the schema payproc of the database {database.where} has version {mark.version}"
    if mark.version > VERSION:
        raise CannotFinish(
            f"{has}, and this payproc is older than the schema: it knows version {VERSION}; install a newer one"
        )
    if mark.version < VERSION:
        raise CannotFinish(f"{has}, this payproc needs {VERSION}; run payproc init")


def _choose_step(
    cursor: psycopg2.extensions.cursor, database: Database, found: FoundSchema | None, *, for_citus: bool | None
) -> Step | None:
    """Return the next step to the current schema, None if it is current.

    Raises CannotFinish if no step leads there.
    """
    if found is None:
        if for_citus:
            citus.require_extension(cursor, database.where)
            citus.require_utf8(cursor, database.where)
        elif for_citus is None:
            citus.require_choice(cursor, database.where)
        return _make_creation_step(cursor, for_citus=bool(for_citus))
    mark = found.mark
    if for_citus not in (None, mark.for_citus):
        made, option = ("Citus", "--no-citus") if mark.for_citus else ("one server", "--citus")
        raise CannotFinish(
            f"the schema payproc of the database {database.where} was created for {made} and cannot be "
            f"converted; name another database, or omit {option}"
        )
    if mark.version < VERSION:
        return _make_version_step(mark)
    _refuse_other_version(mark, database)
    if _is_current(found):
        return None
    current = _make_current_mark(for_citus=mark.for_citus)
    return Step("replaced the procedure and the views of the schema payproc", _list_replaceable(current), current)


def _make_creation_step(cursor: psycopg2.extensions.cursor, *, for_citus: bool) -> Step:
    statements = list_creation_statements(cursor, for_citus=for_citus)
    if for_citus:
        statements = [*citus.SETTINGS, *statements, *citus.list_distribution_statements()]
    return Step("created the schema payproc", statements, _make_current_mark(for_citus=for_citus))


def list_creation_statements(cursor: psycopg2.extensions.cursor, *, for_citus: bool) -> list[str]:
    """Return the statements that create the schema, in either variant, before it is distributed."""
    from payproc.models import list_table_statements  # SQLAlchemy, 0.25 s that every other command saves

    statements = [
        *list_table_statements(citus.DISTRIBUTED_BY if for_citus else None),
        *_list_replaceable(_make_current_mark(for_citus=for_citus)),
    ]
    cursor.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'payproc'")
    # A role that may not create schemas may own an empty one. Even IF NOT EXISTS needs the right to
    # create it.
    return statements if cursor.rowcount else ["CREATE SCHEMA payproc", *statements]


def _make_version_step(mark: Mark) -> Step:
    """Return the step to the next version."""
    version = mark.version + 1
    current = _make_current_mark(for_citus=mark.for_citus)
    reached = current if version == VERSION else Mark(version, mark.for_citus, None)
    files = [file for file in _FOLDER.joinpath("versions").iterdir() if file.name.startswith(f"{version:04}_")]
    statements = [statement for file in files for statement in split_statements(file.read_text("utf-8"))]
    statements += _list_replaceable(reached) if version == VERSION else [make_mark_statement(reached)]
    return Step(f"brought the schema payproc from version {mark.version} to {version}", statements, reached)


def split_statements(script: str) -> list[str]:
    """Return the statements of a script. Citus refuses to change a table in a string of several."""
    return [each[0] for each in _STATEMENT.finditer(script)]


def _list_replaceable(mark: Mark) -> list[str]:
    return [*_list_code(for_citus=mark.for_citus), make_mark_statement(mark)]


def _list_code(*, for_citus: bool) -> list[str]:
    """Return the statements of the procedures and the views."""
    on_machines = split_statements(_FOLDER.joinpath("on_machines.sql").read_text("utf-8")) if for_citus else []
    return [read_procedure(for_citus=for_citus), read_views(for_citus=for_citus), *on_machines]
