"""The schema: whether it is there, which version it has, and the statements that create it or bring it up to date.

What belongs here: everything between a database and the tables that the rest of payproc takes for granted.

A comment on the table runs is the schema's mark: its version, its variant (one server, or Citus), and a digest of the
procedure. The files in versions/ lead from each version to the next. Each step is one transaction under an advisory
lock, so two commands cannot take the same step, and a crash leaves the version before it.

The procedure has no version of its own. If only its digest differs, its owner's next `ingest` or `init` replaces it.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.errors import CannotFinish

VERSION = 2
"""Version of the tables. Each version after the first has a file in versions/ that leads to it."""

ASYNCHRONOUS_COMMIT = "SET LOCAL synchronous_commit = off;"
"""The line of record_decisions.sql that the variant for Citus leaves out."""

LOCK_KEY = 0x70617970726F63
"""Key of the advisory lock: "payproc" in ASCII, because all applications of a database share the keys."""

_FOLDER = Path(__file__).parent
"""The folder of the .sql files. importlib.resources, which also reads archives, takes longer to import than `re`."""

_TABLES = {"payments", "events", "event_conflicts", "runs", "resolutions"}
"""The tables of every version."""

_LATER_TABLES = ((2, "corrections"),)
"""Tables by the version that brought them."""

_MARK = re.compile(r"payproc schema version (\d+)( for Citus)?(?:, procedure ([0-9a-f]+))?")

_RELATIONS = """
    SELECT relname::text, pg_catalog.obj_description(oid, 'pg_class'), pg_catalog.pg_get_userbyid(relowner)::text,
           relkind::text, relpersistence::text
    FROM pg_catalog.pg_class
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'payproc')
"""

_HAS_COLUMN = """
    SELECT FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass::oid AND attname = %s AND NOT attisdropped
"""

_PROCEDURES = """
    SELECT prosrc FROM pg_catalog.pg_proc
    WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'payproc')
          AND proname = 'record_decisions'
"""

_HAS_UNIQUE_POSITIONS = """
    SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass::oid AND contype = 'u'
"""

_FOR_CITUS = (
    # One connection to each machine: the types are created there by the same transaction as the tables.
    "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
    # Where this is on, CREATE SCHEMA would put all tables of the schema on one machine.
    "SET LOCAL citus.enable_schema_based_sharding TO off",
)


class Mark(NamedTuple):
    """Version and variant of a schema, and the digest of its procedure; None if it has none of its own yet."""

    version: int
    for_citus: bool
    digest: str | None

    def __str__(self) -> str:
        variant = " for Citus" if self.for_citus else ""
        procedure = f", procedure {self.digest}" if self.digest else ""
        return f"payproc schema version {self.version}{variant}{procedure}"


class Step(NamedTuple):
    """One transaction on the way up: what it does, in a few words, its statements, and the mark that it leaves."""

    summary: str
    statements: list[str]
    mark: Mark


class _Found(NamedTuple):
    """A schema of payproc's in a database."""

    mark: Mark
    owner: str
    unlogged: list[str]
    """Tables that a crash of the server would empty."""
    bodies: list[str]
    """Of the procedure, which may be gone, or replaced by somebody."""

    def is_current(self) -> bool:
        """Return whether there is no step to take."""
        for_citus = self.mark.for_citus
        return self.mark == _current_mark(for_citus=for_citus) and _body(for_citus=for_citus) in self.bodies


# ---- Is it there? ---------------------------------------------------------------------------------


def has_schema(database: Database) -> bool:
    """Return whether payproc's schema is there.

    Raises CannotFinish if it is of another version, or something else has its name.
    """
    found = _find(database)
    if found is not None:
        _refuse_other_version(found.mark, database)
    return found is not None


def require_schema(database: Database) -> None:
    """Raise CannotFinish unless payproc's schema is there, in this version."""
    if not has_schema(database):
        raise CannotFinish(f"nothing is recorded: no schema payproc in the database {database.where}")


def prepare_schema(database: Database, say: Callable[[str], None], *, create: bool) -> None:
    """Make the schema fit to be written to, as far as that may be done unasked; `say` gets a line on each change.

    A missing schema is created if `create` is set. The schema of an embedded database is brought up to date; a
    server's never is. Raises CannotFinish if the schema cannot be used as it is.
    """
    found = _find(database)
    if found is None:
        if not create:
            require_schema(database)
        bring_up(database)
        return
    if found.unlogged:
        raise CannotFinish(
            f"the table payproc.{found.unlogged[0]} of the database {database.where} is UNLOGGED, so a crash would "
            f"empty it; run ALTER TABLE payproc.{found.unlogged[0]} SET LOGGED"
        )
    if found.mark.version != VERSION and not (found.mark.version < VERSION and database.is_embedded):
        _refuse_other_version(found.mark, database)
    if found.is_current():
        return
    try:
        for summary in bring_up(database):
            say(summary)
    except CannotFinish as error:
        if found.mark.version != VERSION or not _is_about_privileges(error):
            raise
        say(
            f"the procedure of the schema payproc is another payproc's, and only its owner {found.owner} may replace "
            f"it by `payproc init`; going on with it"
        )


def _find(database: Database) -> _Found | None:
    with database.transaction() as cursor:
        return _read_mark(cursor, database.where)


def _read_mark(cursor: psycopg2.extensions.cursor, where: str) -> _Found | None:
    cursor.execute(_RELATIONS)
    relations = {name: rest for name, *rest in cursor.fetchall()}
    if not relations:
        return None
    tables = [name for name, (_, _, kind, _) in relations.items() if kind == "r"]
    if not set(tables) >= _TABLES:
        raise CannotFinish(
            f"the schema payproc of the database {where} is not payproc's: it holds {len(relations)} tables and "
            "indexes of something else; name another database"
        )
    comment, owner, *_ = relations["runs"]
    mark = _MARK.fullmatch(comment or "")
    if mark is None:
        raise CannotFinish(
            f"the schema payproc of the database {where} has lost its mark, as by a restore without comments; as its "
            f"owner {owner} run: COMMENT ON TABLE payproc.runs IS '{_recognize(cursor)}'"
        )
    missing = [name for version, name in _LATER_TABLES if version <= int(mark[1]) <= VERSION and name not in tables]
    if missing:
        raise CannotFinish(
            f"the schema payproc of the database {where} lacks its table {missing[0]}; restore it from a backup"
        )
    cursor.execute(_PROCEDURES)
    bodies = [body for (body,) in cursor.fetchall()]
    unlogged = sorted(name for name in tables if relations[name][3] == "u")
    return _Found(Mark(int(mark[1]), bool(mark[2]), mark[3]), owner, unlogged, bodies)


def _recognize(cursor: psycopg2.extensions.cursor) -> Mark:
    """Return the mark of a schema that has lost it, by its tables."""
    cursor.execute(_HAS_COLUMN, ("payproc.payments", "state_since"))
    version = 2 if cursor.rowcount else 1
    cursor.execute(_HAS_UNIQUE_POSITIONS, ("payproc.events",))
    return Mark(version, for_citus=not cursor.rowcount, digest=None)


def _refuse_other_version(mark: Mark, database: Database) -> None:
    has = f"the schema payproc of the database {database.where} has version {mark.version}"
    if mark.version > VERSION:
        raise CannotFinish(
            f"{has}, and this payproc is older than the schema: it knows version {VERSION}; install a newer one"
        )
    if mark.version < VERSION:
        raise CannotFinish(f"{has}, this payproc needs {VERSION}; run payproc init")


def _is_about_privileges(error: CannotFinish) -> bool:
    cause = error.__cause__
    return isinstance(cause, psycopg2.Error) and cause.pgcode == psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE


# ---- The way up -----------------------------------------------------------------------------------


def bring_up(database: Database, *, for_citus: bool = False) -> list[str]:
    """Create the schema or bring it up to date; return a line on each step taken, none if there was nothing to do.

    Safe beside another command that does the same. `for_citus` asks for the variant for Citus. Raises CannotFinish if
    the role may not, if the schema is newer, or if it has the other variant; the steps before stay taken.
    """
    done: list[str] = []
    while True:
        with database.transaction() as cursor:
            cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s::bigint)", (LOCK_KEY,))
            found = _read_mark(cursor, database.where)
            step = _next_step(cursor, database, found, for_citus=for_citus)
            if step is None:
                return done
            try:
                cursor.execute("SET LOCAL row_security = off")  # a policy would hide rows; like this it is an error
                for statement in step.statements:
                    cursor.execute(statement)
            except psycopg2.errors.InsufficientPrivilege as error:
                if found is None:
                    raise
                said = (error.diag.message_primary or "").strip()
                raise CannotFinish(
                    f"the schema payproc of the database {database.where} can be brought up to date only by its "
                    f"owner: {said}; run payproc init as {found.owner}"
                ) from error
        done.append(step.summary)
        if step.mark == _current_mark(for_citus=step.mark.for_citus):
            return done  # without another look: a server that changes the procedure's text would be brought up for ever


def script(database: Database, *, for_citus: bool = False) -> Iterator[str]:
    """Give the statements that `bring_up` would run, a transaction at a time, for `psql -f`."""
    with database.transaction() as cursor:
        found = _read_mark(cursor, database.where)
        while (step := _next_step(cursor, database, found, for_citus=for_citus)) is not None:
            lock = f"SELECT pg_catalog.pg_advisory_xact_lock({LOCK_KEY}::bigint)"
            statements = [
                f"{statement.strip().rstrip(';')};" for statement in ("BEGIN", lock, *step.statements, "COMMIT")
            ]
            yield "\n\n".join((f"-- {step.summary}", *statements))
            found = _Found(step.mark, "", [], [_body(for_citus=step.mark.for_citus)])


def _next_step(
    cursor: psycopg2.extensions.cursor, database: Database, found: _Found | None, *, for_citus: bool
) -> Step | None:
    if found is None:
        if for_citus:
            _check_citus(cursor, database.where)
        return _creation(cursor, for_citus=for_citus)
    mark = found.mark
    if for_citus and not mark.for_citus:
        raise CannotFinish(
            f"the schema payproc of the database {database.where} was made for one server and cannot be distributed "
            "any more; name another database, or go on with this one as it is"
        )
    if mark.version > VERSION:
        _refuse_other_version(mark, database)
    if mark.version < VERSION:
        return _version_step(mark)
    if found.is_current():
        return None
    current = _current_mark(for_citus=mark.for_citus)
    return Step("replaced the procedure of the schema payproc", _installation(current), current)


def create_schema(cursor: psycopg2.extensions.cursor, *, for_citus: bool = False) -> None:
    """Create the schema in either variant, on the server of the cursor alone: nothing is distributed."""
    for statement in _creation_statements(cursor, for_citus=for_citus):
        cursor.execute(statement)


def _creation(cursor: psycopg2.extensions.cursor, *, for_citus: bool) -> Step:
    statements = _creation_statements(cursor, for_citus=for_citus)
    if for_citus:
        from payproc.models import distribute_tables

        statements = [*_FOR_CITUS, *statements, *distribute_tables()]
    return Step("created the schema payproc", statements, _current_mark(for_citus=for_citus))


def _creation_statements(cursor: psycopg2.extensions.cursor, *, for_citus: bool) -> list[str]:
    from payproc.models import create_tables  # with SQLAlchemy, which takes long to import

    statements = [*create_tables(for_citus=for_citus), *_installation(_current_mark(for_citus=for_citus))]
    cursor.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'payproc'")
    # A role that may not create schemas may own an empty one. Even IF NOT EXISTS asks for the right to create it.
    return statements if cursor.rowcount else ["CREATE SCHEMA payproc", *statements]


def _version_step(mark: Mark) -> Step:
    """Return the step to the next version."""
    version = mark.version + 1
    reached = _current_mark(for_citus=mark.for_citus) if version == VERSION else Mark(version, mark.for_citus, None)
    statements = list(_FOR_CITUS) if mark.for_citus else []
    files = [
        file
        for file in _FOLDER.joinpath("versions").iterdir()
        if file.name.startswith(f"{version:04}_") and (mark.for_citus or not file.name.endswith(".citus.sql"))
    ]
    statements += [file.read_text("utf-8") for file in sorted(files, key=lambda file: len(file.name))]
    statements += _installation(reached) if version == VERSION else [_comment(reached)]
    return Step(f"brought the schema payproc from version {mark.version} to {version}", statements, reached)


def _current_mark(*, for_citus: bool) -> Mark:
    import hashlib  # loads OpenSSL, which reading commands do without

    digest = hashlib.sha256(procedure(for_citus=for_citus).encode()).hexdigest()[:16]
    return Mark(VERSION, for_citus, digest)


def _installation(mark: Mark) -> list[str]:
    return [procedure(for_citus=mark.for_citus), _comment(mark)]


def _comment(mark: Mark) -> str:
    return f"COMMENT ON TABLE payproc.runs IS '{mark}'"


def procedure(*, for_citus: bool) -> str:
    """Return the statement of record_decisions.sql; for Citus without its asynchronous commits.

    There the coordinator's commit is the decision that the other machines follow. If it could be lost after one of
    them has followed it, a payment would be left without its event, or an event without its payment.
    """
    statement = _FOLDER.joinpath("record_decisions.sql").read_text("utf-8")
    return statement.replace(ASYNCHRONOUS_COMMIT, "") if for_citus else statement


def _body(*, for_citus: bool) -> str:
    return procedure(for_citus=for_citus).split("$procedure$")[1]


def _check_citus(cursor: psycopg2.extensions.cursor, where: str) -> None:
    cursor.execute("SELECT installed_version FROM pg_catalog.pg_available_extensions WHERE name = 'citus'")
    available = cursor.fetchall()
    if not available:
        raise CannotFinish(
            f"the server of the database {where} does not have the extension citus, which --citus needs; name a Citus "
            "coordinator, or leave out --citus for one server"
        )
    if available == [(None,)]:
        raise CannotFinish(
            f"the database {where} does not have the extension citus, though its server does; run "
            "`CREATE EXTENSION citus` in it, on each machine, and then this command again"
        )
