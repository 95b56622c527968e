"""Record the decisions about a batch.

Belongs here: the CALL of record_decisions, and what it answers. A returned answer is durable.
"""

from collections.abc import Iterable, Sequence

import psycopg2.extensions

from payproc.batch import EventResult
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.logic import Decision, EventType
from payproc.lookup import SEPARATOR

_COMMIT_MARK = "payproc: commit\n"
"""A line of the message that record_decisions.sql sends before its last commit."""


def record(
    database: Database,
    connection: psycopg2.extensions.connection,
    run_id: int,
    new: Sequence[EventResult],
    payment_id: str | None = None,
) -> list[int]:
    """Write the new results and flush everything; return the places of contested ones, from 1.

    On Citus, `payment_id` names the machine that does it.

    It flushes even with nothing new, because the original of a duplicate may be visible but not
    durable yet.
    """
    arguments = [] if payment_id is None else [payment_id]
    arguments += [str(run_id), *map(SEPARATOR.join, _list_columns(new))]
    notices = connection.notices
    notices.clear()
    with connection.cursor() as cursor:
        cursor.execute(f"CALL payproc.record_decisions({'%s, ' * len(arguments)}NULL)", arguments)
        ((contested,),) = cursor.fetchall()
    if contested is None:
        raise CannotFinish("the procedure record_decisions has lost its body; run payproc init")
    mark = max((number for number, each in enumerate(notices, 1) if _COMMIT_MARK in each), default=0)
    database.refuse_warnings(connection, notices[mark:])
    return [int(number) for number in contested.split(",")] if contested else []


def _list_columns(new: Sequence[EventResult]) -> tuple[Iterable[str], ...]:
    """Return the lists that record_decisions takes, in the order of its parameters."""
    kinds: dict[tuple[EventType, Decision], int] = {}
    numbers = [kinds.setdefault((each.input_event.event.type, each.decision), len(kinds) + 1) for each in new]
    input_events = [each.input_event for each in new]
    events = [each.event for each in input_events]
    return (
        [str(each.source) for each in input_events],
        [str(each.line) for each in input_events],
        [event.event_id for event in events],
        [event.payment_id for event in events],
        map(str, numbers),
        [event_type for event_type, _ in kinds],
        [str(each.version) for each in new],
        [decision.outcome for _, decision in kinds],
        [decision.reason for _, decision in kinds],
        [decision.state_before for _, decision in kinds],
        [decision.state_after for _, decision in kinds],
        [each.payload for each in input_events],
    )
