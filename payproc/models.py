"""The tables, their constraints and their indexes.

Belongs here: the stored facts, and the contradictions that the database itself must prevent. The
tables live in a schema of their own, beside those of other applications. Every constraint and index
is named after the fault that it prevents or the query that it serves.

The closed sets are ENUM types. PostgreSQL would set up a CHECK expression anew for every statement,
which halved the speed of a prototype. There is no foreign key from events to payments, because the
only write path (record_decisions.sql) inserts an event together with its payment's row or not at
all, and verify.py checks it.

The tables have two variants: for one server, and for Citus, which spreads them over many machines
by the hash of a column. Everything of a payment is on one machine there. Citus cannot guard a
unique key without that column, so the keys of an event hold its payment_id as well, and the table
event_ids guards that an event_id belongs to one payment.
"""

from collections.abc import Mapping
from enum import Enum

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    create_mock_engine,
    func,
    text,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.schema import ExecutableDDLElement

from payproc.logic import EventType, Outcome, Reason, Resolution, State

SCHEMA = "payproc"

metadata = MetaData(schema=SCHEMA)


def _list_values(members: type[Enum]) -> list[str]:
    return [member.value for member in members]


def _make_enum(members: type[Enum], name: str) -> EnumType:
    return EnumType(members, name=name, schema=SCHEMA, values_callable=_list_values)


_state = _make_enum(State, "state")
_event_type = _make_enum(EventType, "event_type")
_outcome = _make_enum(Outcome, "outcome")
_reason = _make_enum(Reason, "reason")
_resolution = _make_enum(Resolution, "resolution")

# Ids are opaque. The "C" collation compares bytes, and is faster than the rules of a language.
_Id = Text(collation="C")
_Time = DateTime(timezone=True)

payments = Table(
    "payments",
    metadata,
    Column("payment_id", _Id, nullable=False),
    Column("state", _state, nullable=False),
    # Number of entries of its history. A decision is recorded only if this is still the version it
    # was based on.
    Column("version", Integer, nullable=False),
    Column("created_at", _Time, nullable=False, server_default=func.now()),
    # Time of the last change of the state. An event that does not move the payment keeps it.
    Column("state_since", _Time, nullable=False, server_default=func.now()),
    # Prevents two states for one payment.
    PrimaryKeyConstraint("payment_id", name="payments_have_one_state"),
)

events = Table(
    "events",
    metadata,
    Column("event_id", _Id, nullable=False),
    Column("payment_id", _Id, nullable=False),
    # Its place in the payment's history: 1, 2, … A resolution takes a place of its own.
    Column("position", Integer, nullable=False),
    Column("type", _event_type, nullable=False),
    Column("outcome", _outcome, nullable=False),
    Column("reason", _reason, nullable=False),
    Column("state_before", _state, nullable=False),
    Column("state_after", _state, nullable=False),
    # Index of the line's source in the run, counted from 0; `line` is counted from 1.
    Column("source", Integer, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=func.now()),
    # The line as received. `json` keeps it verbatim; `jsonb` would reorder it, and costs more.
    Column("payload", JSON, nullable=False),
    # Prevents that an event is applied twice.
    PrimaryKeyConstraint("event_id", name="events_are_recorded_once"),
    # Prevents two entries at one position of a history. Also serves reading it in order.
    UniqueConstraint("payment_id", "position", name="histories_have_one_entry_a_position"),
)

# Serves the review queue, oldest first. It holds only events that need review.
Index(
    "events_for_review",
    events.c.recorded_at,
    events.c.event_id,
    # The catalog's operator by name, because one for this very type in another schema would win.
    postgresql_where=text(f"outcome OPERATOR(pg_catalog.=) '{Outcome.MANUAL_REVIEW.value}'"),
)

event_conflicts = Table(
    "event_conflicts",
    metadata,
    Column("event_id", _Id, nullable=False),
    Column("payment_id", _Id, nullable=False),
    Column("type", _event_type, nullable=False),
    Column("source", Integer, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=func.now()),
    Column("payload", JSON, nullable=False),
    # Prevents the same evidence twice, so replaying a file adds nothing.
    PrimaryKeyConstraint("event_id", "payment_id", "type", name="conflicts_are_recorded_once"),
    # Serves showing a payment the conflicts that name it.
    Index("conflicts_of_a_payment", "payment_id"),
)

redeliveries = Table(
    "redeliveries",
    metadata,
    Column("event_id", _Id, nullable=False),
    # SHA-256 of the line. A unique key on the line itself would exceed the size of an index entry.
    Column("digest", LargeBinary, nullable=False),
    Column("source", Integer, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=func.now()),
    # A line with the event_id, payment_id and type of the event on record, and other content.
    Column("payload", JSON, nullable=False),
    # Prevents the same line twice, so replaying a file adds nothing. Also serves finding the
    # redeliveries of an event.
    PrimaryKeyConstraint("event_id", "digest", name="redeliveries_are_recorded_once"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), nullable=False),
    Column("sources", ARRAY(Text), nullable=False),
    Column("started_at", _Time, nullable=False, server_default=func.now()),
    # Time of the last saved counts. A run that never finished ended up to a second later.
    Column("active_at", _Time, nullable=False, server_default=func.now()),
    # Null: still running, interrupted or crashed.
    Column("finished_at", _Time),
    Column("lines", BigInteger, nullable=False, server_default="0"),
    Column("malformed", BigInteger, nullable=False, server_default="0"),
    Column("applied", BigInteger, nullable=False, server_default="0"),
    Column("ignored", BigInteger, nullable=False, server_default="0"),
    Column("rejected", BigInteger, nullable=False, server_default="0"),
    Column("manual_review", BigInteger, nullable=False, server_default="0"),
    # A name for people. Null: not given.
    Column("label", Text),
    # Prevents two runs under one number.
    PrimaryKeyConstraint("run_id", name="runs_have_one_number"),
)

resolutions = Table(
    "resolutions",
    metadata,
    Column("event_id", _Id, nullable=False),
    Column("payment_id", _Id, nullable=False),
    Column("position", Integer, nullable=False),
    Column("resolution", _resolution, nullable=False),
    Column("state_before", _state, nullable=False),
    Column("state_after", _state, nullable=False),
    Column("note", Text, nullable=False),
    Column("resolved_by", Text, nullable=False),
    Column("resolved_at", _Time, nullable=False, server_default=func.now()),
    # Prevents two decisions about one event.
    PrimaryKeyConstraint("event_id", name="reviews_are_resolved_once"),
    # Prevents two resolutions at one position of a history. Also serves reading it in order.
    UniqueConstraint("payment_id", "position", name="resolutions_have_one_a_position"),
)

corrections = Table(
    "corrections",
    metadata,
    Column("payment_id", _Id, nullable=False),
    Column("position", Integer, nullable=False),
    Column("state_before", _state, nullable=False),
    Column("state_after", _state, nullable=False),
    Column("note", Text, nullable=False),
    Column("corrected_by", Text, nullable=False),
    Column("corrected_at", _Time, nullable=False, server_default=func.now()),
    # Prevents two corrections at one position of a history. Also serves reading it in order.
    PrimaryKeyConstraint("payment_id", "position", name="corrections_have_one_a_position"),
)


def list_table_statements(distributed_by: Mapping[str, str] | None) -> list[str]:
    """Return the statements that create the types, tables and indexes in an existing schema.

    `distributed_by` asks for the variant for Citus, with the column that each table is spread by.
    """
    statements: list[str] = []

    def collect(statement: ExecutableDDLElement, *_: object, **__: object) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine("postgresql+psycopg2://", collect)
    (_adapt_to_citus(distributed_by) if distributed_by else metadata).create_all(engine, checkfirst=False)
    # Room on each page for the new version of a row, so it needs no index entry. SQLAlchemy 2.0
    # takes no storage parameters for a table.
    return [*statements, f"ALTER TABLE {SCHEMA}.payments SET (fillfactor = 90)"]


def _adapt_to_citus(distributed_by: Mapping[str, str]) -> MetaData:
    """Return the same tables with the column they are spread by in each key, and event_ids."""
    variant = MetaData(schema=SCHEMA)
    for table in metadata.tables.values():
        copy = table.to_metadata(variant)
        column = distributed_by.get(copy.name)
        if column is not None and column not in copy.primary_key.columns:
            key = [column, *copy.primary_key.columns.keys()]
            copy.columns[column].primary_key = True
            copy.append_constraint(PrimaryKeyConstraint(*key, name=str(copy.primary_key.name)))
    Table(
        "event_ids",
        variant,
        Column("event_id", _Id, nullable=False),
        Column("payment_id", _Id, nullable=False),
        Column("type", _event_type, nullable=False),
        # Prevents that two payments have an event under one event_id.
        PrimaryKeyConstraint("event_id", name="event_ids_are_claimed_once"),
    )
    return variant
