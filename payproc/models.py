"""The tables, their constraints and their indexes.

What belongs here: what is stored, and what the database itself must never let happen. They live in a schema of their
own, so that a database shared with other applications stays theirs. Every constraint and index is named after what it
prevents or serves, and above it stands why.

The closed sets are ENUM types, not CHECKs: PostgreSQL sets a CHECK expression up anew for every statement, which halved
the speed of a prototype. There is no foreign key from events to payments: the only write path (record_decisions.sql)
inserts an event together with its payment's row or not at all, and verify.py checks it.

There are two variants of the same tables: for one server, and for Citus, which spreads them over many by the hash of a
column. A unique key that Citus could not guard, because that column is not in it, is a plain index there. The write
path needs none of those: every entry's position is the version that compare and set has given its payment.
"""

from enum import Enum

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
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

DISTRIBUTED_BY = {
    "payments": "payment_id",
    "events": "event_id",
    "event_conflicts": "event_id",
    "resolutions": "event_id",
    "corrections": "payment_id",
}
"""The column that tells on which machine a row lives, where there are many. Those with the same one are kept together.

`runs` is not here: it stays on the machine that the command talks to, the coordinator.
"""


def _values(members: type[Enum]) -> list[str]:
    return [member.value for member in members]


def _enum(members: type[Enum], name: str) -> EnumType:
    return EnumType(members, name=name, schema=SCHEMA, values_callable=_values)


_state = _enum(State, "state")
_event_type = _enum(EventType, "event_type")
_outcome = _enum(Outcome, "outcome")
_reason = _enum(Reason, "reason")
_resolution = _enum(Resolution, "resolution")

# Ids are opaque and compared byte for byte; the "C" collation does that, and faster than a language's rules would.
_Id = Text(collation="C")
_Time = DateTime(timezone=True)

payments = Table(
    "payments",
    metadata,
    Column("payment_id", _Id, nullable=False),
    Column("state", _state, nullable=False),
    # How many entries its history has. Every decision is recorded only if this is still what it was based on.
    Column("version", Integer, nullable=False),
    Column("created_at", _Time, nullable=False, server_default=func.now()),
    # When the state last changed; events that leave the state as it is leave this as it is.
    Column("state_since", _Time, nullable=False, server_default=func.now()),
    # Two states for one payment.
    PrimaryKeyConstraint("payment_id", name="payments_have_one_state"),
    # Room on each page for the new version of a row, so that no index entry is needed for it.
    postgresql_with={"fillfactor": 90},
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
    # Which of the run's sources the line is from, counted from 0, and its number there, counted from 1.
    Column("source", Integer, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("recorded_at", _Time, nullable=False, server_default=func.now()),
    # The line as received. `json` keeps it verbatim; `jsonb` would reorder it, and costs more.
    Column("payload", JSON, nullable=False),
    # An event applied twice.
    PrimaryKeyConstraint("event_id", name="events_are_recorded_once"),
    # Two entries at one place in a payment's history. Also serves reading that history in order.
    UniqueConstraint("payment_id", "position", name="histories_have_one_entry_a_position"),
)

# Serves the review queue, oldest first; only events that a person must look at are in it.
Index(
    "events_for_review",
    events.c.recorded_at,
    events.c.event_id,
    # Names the catalog's operator: one for this very type in another schema would be preferred.
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
    # The same evidence twice: replaying a file adds nothing.
    PrimaryKeyConstraint("event_id", "payment_id", "type", name="conflicts_are_recorded_once"),
    # Serves showing a payment the conflicts that name it.
    Index("conflicts_of_a_payment", "payment_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), nullable=False),
    Column("sources", ARRAY(Text), nullable=False),
    Column("started_at", _Time, nullable=False, server_default=func.now()),
    # When the run last saved its counts. A run that never finished ended up to a second later.
    Column("active_at", _Time, nullable=False, server_default=func.now()),
    # Null: still running, interrupted or crashed.
    Column("finished_at", _Time),
    Column("lines", BigInteger, nullable=False, server_default="0"),
    Column("malformed", BigInteger, nullable=False, server_default="0"),
    Column("applied", BigInteger, nullable=False, server_default="0"),
    Column("ignored", BigInteger, nullable=False, server_default="0"),
    Column("rejected", BigInteger, nullable=False, server_default="0"),
    Column("manual_review", BigInteger, nullable=False, server_default="0"),
    # A name for people; null: none was given.
    Column("label", Text),
    # Two runs under one number.
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
    # Two people deciding the same event.
    PrimaryKeyConstraint("event_id", name="reviews_are_resolved_once"),
    # Two resolutions at one place in a payment's history. Also serves reading that history in order.
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
    # Two corrections at one place in a payment's history. Also serves reading that history in order.
    PrimaryKeyConstraint("payment_id", "position", name="corrections_have_one_a_position"),
)


def create_tables(*, for_citus: bool = False) -> list[str]:
    """The statements that create the types, tables and indexes, in the schema, which is there already."""
    statements: list[str] = []

    def collect(statement: ExecutableDDLElement, *_: object, **__: object) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine("postgresql+psycopg2://", collect)
    (_for_citus() if for_citus else metadata).create_all(engine, checkfirst=False)
    return statements


def distribute_tables() -> list[str]:
    """The statements that have Citus spread the tables of its variant over its machines."""
    statements = []
    first: dict[str, str] = {}
    for table, column in DISTRIBUTED_BY.items():
        # `none`: beside nothing, in particular not beside some other application's tables.
        beside = f"payproc.{first[column]}" if column in first else "none"
        first.setdefault(column, table)
        statements.append(
            f"SELECT pg_catalog.create_distributed_table('payproc.{table}', '{column}', colocate_with => '{beside}')"
        )
    return statements


def _for_citus() -> MetaData:
    """The same tables, with an index in place of each unique key that Citus could not guard."""
    variant = MetaData(schema=SCHEMA)
    for table in metadata.tables.values():
        copy = table.to_metadata(variant)
        for key in [each for each in copy.constraints if isinstance(each, UniqueConstraint)]:
            if copy.name in DISTRIBUTED_BY and DISTRIBUTED_BY[copy.name] not in key.columns:
                copy.constraints.remove(key)
                Index(str(key.name), *key.columns)
    return variant
