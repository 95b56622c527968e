"""One batch of events: look up, classify, record, and look again at what was contested.

What belongs here: the order of these steps, and what an error in one of them means for a batch. Handlers coordinate;
logic.py decides, and record_decisions.sql writes.

Every event has its own transaction. What makes it fast is not bigger transactions but fewer round trips (two queries,
a third where there are conflicts, and one CALL for a batch) and one flush for many commits. What a handler returns is
durable; nothing is reported before.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import psycopg2.extensions

from payproc.batch import (
    NO_RUN,
    EventResult,
    InputEvent,
    Known,
    RecordedEvent,
    Result,
    ThisRun,
    decide,
    place_of,
    retry_set,
)
from payproc.db.connection import Database
from payproc.db.errors import is_about_connection
from payproc.errors import CannotFinish
from payproc.logic import Decision, EventType, Outcome, Reason, State, classify
from payproc.schemas import Malformed
from payproc.signals import interrupt

MAX_RETRIES = 8
"""How often a batch is tried again after errors that may pass, without one event of it getting recorded between."""

MAX_RETRIES_AFTER_SIGNAL = 4
"""The same once a signal has asked for a stop: it may have ended the server as well."""

FIRST_PAUSE_SECONDS = 0.05
"""The pause before the second try; it doubles with each. All eight together wait for 13 s."""

_SEPARATOR = "\x1f"
"""Stands between the items of a list sent to the server. Neither an id nor a line of JSON can hold it."""

_PASSING_ERRORS = frozenset(
    {
        psycopg2.errorcodes.SERIALIZATION_FAILURE,
        psycopg2.errorcodes.DEADLOCK_DETECTED,
        psycopg2.errorcodes.ADMIN_SHUTDOWN,
        psycopg2.errorcodes.CRASH_SHUTDOWN,
        psycopg2.errorcodes.CANNOT_CONNECT_NOW,
        psycopg2.errorcodes.CONNECTION_FAILURE,  # of a Citus coordinator to another machine
    }
)
"""The transaction is gone, but the same work may succeed a moment later."""

_DATA_EXCEPTIONS = "22"
"""The class of SQLSTATEs that mean, like statement_too_complex: this content cannot be stored here."""

_LOOK_UP_EVENTS = """
    SELECT event_id, payment_id, type, outcome, CASE WHEN run_id = %s AND recorded_at >= %s
           THEN ARRAY[source::text, line::text, reason::text, state_before::text, state_after::text] ELSE '{}' END
    FROM payproc.events WHERE event_id = ANY (string_to_array(%s, chr(31)))
"""

_LOOK_UP_PAYMENTS = """
    SELECT payment_id, state, version
    FROM payproc.payments WHERE payment_id = ANY (string_to_array(%s, chr(31)))
"""

_LOOK_UP_CONFLICTS = """
    SELECT event_id, payment_id, type, run_id = %s AND recorded_at >= %s, source, line
    FROM payproc.event_conflicts WHERE event_id = ANY (string_to_array(%s, chr(31)))
"""

_RECORD = f"CALL payproc.record_decisions({', '.join(['%s'] * 13)}, NULL)"

_KEYS_OF_A_RACE = ("events_are_recorded_once", "payments_have_one_state")
"""Unique keys that end a CALL if another process was first; on Citus the number of a shard follows."""

_COMMIT_MARK = "payproc: commit\n"
"""End of the message that record_decisions.sql sends before its last commit."""

_TYPES = {each.value: each for each in EventType}

_OUTCOMES = {each.value: each for each in Outcome}

_STATES = {each.value: each for each in State}


def look_up(
    connection: psycopg2.extensions.connection, own: ThisRun, event_ids: Iterable[str], payment_ids: Iterable[str]
) -> Known:
    """Fetch what is on record under these event_ids, and the state and version of these payments, for a run."""
    with connection.cursor() as cursor:
        # Events first. An event recorded between the two queries then meets a payment that has moved on, or its
        # own event_id, when it is written, and is contested. The other way round it could pass for new.
        cursor.execute(_LOOK_UP_EVENTS, (*own, _SEPARATOR.join(event_ids)))
        recorded = {
            event_id: RecordedEvent(
                payment_id, _TYPES[event_type], _OUTCOMES[outcome], *(rest and _own(outcome, *rest))
            )
            for event_id, payment_id, event_type, outcome, rest in cursor
        }
        cursor.execute(_LOOK_UP_PAYMENTS, (_SEPARATOR.join(payment_ids),))
        payments = {payment_id: (_STATES[state], version) for payment_id, state, version in cursor}
    return Known(recorded, payments, {})


def look_up_conflicts(
    connection: psycopg2.extensions.connection, own: ThisRun, batch: Iterable[InputEvent], known: Known
) -> None:
    """Add the recorded conflicts of the batch's event_ids to `known`. No query if the batch holds no conflict."""
    event_ids = {
        event.event_id
        for event in (received.event for received in (batch if known.recorded else ()))
        if (on_record := known.recorded.get(event.event_id)) is not None
        and classify(event, on_record, State.CREATED).reason is Reason.EVENT_ID_CONFLICT
        and (event.event_id, event.payment_id, event.type) not in known.conflicts
    }
    if not event_ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(_LOOK_UP_CONFLICTS, (*own, _SEPARATOR.join(event_ids)))
        for event_id, payment_id, event_type, is_own, source, line in cursor:
            conflict = (event_id, payment_id, _TYPES[event_type])
            known.conflicts.setdefault(conflict, (source, line) if is_own else None)


def _own(outcome: str, source: str, line: str, reason: str, before: str, after: str) -> tuple[int, int, Decision]:
    return int(source), int(line), Decision(_OUTCOMES[outcome], Reason(reason), _STATES[before], _STATES[after])


class Recorder:
    """Records one run's events over one connection. Not for two threads at once."""

    def __init__(self, database: Database, run_id: int) -> None:
        """Connect. Raises CannotFinish if that fails."""
        self._database = database
        self._connection = database.connect()
        self._own = ThisRun(run_id, self._now())
        self._may_go_on = True

    def _now(self) -> datetime:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT now()")
                ((now,),) = cursor.fetchall()
        except psycopg2.Error as error:
            raise self._database.describe_error(error) from error
        return now  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]:
        """Process events in order; give what became of each, in the same order. All of it is durable on return.

        Raises CannotFinish if the database cannot be worked with. Part of the batch may be recorded then; handling it
        again, in another run, is safe. After that, every further batch is refused: what waits behind the one that
        failed holds later events of the same payments, and recording those first would turn their order around.
        """
        if not self._may_go_on:
            raise CannotFinish("an earlier batch was not recorded")
        self._may_go_on = False
        results = self._handle(batch)
        self._may_go_on = True
        return results

    def _handle(self, batch: Sequence[InputEvent], *, is_first_attempt: bool = True) -> list[Result]:
        try:
            return self._settle(batch, is_first_attempt=is_first_attempt)
        except psycopg2.Error as error:
            if not _refuses_content(error):
                raise self._database.describe_error(error) from error
            return _bisect(partial(self._handle, is_first_attempt=False), batch, error)

    def _settle(self, batch: Sequence[InputEvent], *, is_first_attempt: bool) -> list[Result]:
        """Look up, classify, record; and again for what was contested, until nothing is.

        Only a batch that was tried before can find its own events on record. In a first attempt, events of this run's
        number are another's: numbers start again after TRUNCATE … RESTART IDENTITY, or a restore without `runs`.
        """
        settled: dict[tuple[int, int], Result] = {}
        pending = batch
        attempts = RetryBudget()
        while pending:
            own = NO_RUN if is_first_attempt else self._own
            is_first_attempt = False
            try:
                if self._connection.closed:
                    self._connection = self._database.connect()
                known = look_up(
                    self._connection,
                    own,
                    [received.event.event_id for received in pending],
                    {received.event.payment_id for received in pending},
                )
                look_up_conflicts(self._connection, own, pending, known)
                verdicts = decide(pending, known)
                new = [verdict for verdict in verdicts if verdict.is_new]
                attempts.begin(new)
                contested = self._record(verdicts, new)
            except psycopg2.errors.UniqueViolation as error:
                if not (error.diag.constraint_name or "").startswith(_KEYS_OF_A_RACE):
                    raise
                if len(pending) > 1:
                    # Halves isolate the events that another process was first with.
                    middle = len(pending) // 2
                    for half in (pending[:middle], pending[middle:]):
                        results = self._settle(half, is_first_attempt=False)
                        settled.update(zip(map(place_of, half), results, strict=True))
                    break
                continue
            except (psycopg2.Error, CannotFinish) as error:
                if isinstance(error, psycopg2.Error) and is_about_connection(error):
                    self._connection.close()  # which the driver may not have noticed
                attempts.failed(error, self._connection)
                continue
            if not contested and not settled:
                return list[Result](verdicts)
            settled.update((place_of(verdict.received), verdict) for verdict in verdicts)
            pending = contested
        return [settled[place_of(received)] for received in batch]

    def _record(self, verdicts: Sequence[EventResult], new: Sequence[EventResult]) -> list[InputEvent]:
        """Write what is new and flush everything; give the events that must be looked at again."""
        received = [verdict.received for verdict in new]
        events = [each.event for each in received]
        kinds: dict[tuple[EventType, Decision], int] = {}
        numbers = [kinds.setdefault((each.received.event.type, each.decision), len(kinds) + 1) for each in new]
        columns: tuple[Iterable[str], ...] = (
            [str(each.source) for each in received],
            [str(each.line) for each in received],
            [event.event_id for event in events],
            [event.payment_id for event in events],
            map(str, numbers),
            [event_type for event_type, _ in kinds],
            [str(verdict.version) for verdict in new],
            [decision.outcome for _, decision in kinds],
            [decision.reason for _, decision in kinds],
            [decision.state_before for _, decision in kinds],
            [decision.state_after for _, decision in kinds],
            [each.payload for each in received],
        )
        notices = self._connection.notices
        notices.clear()
        with self._connection.cursor() as cursor:
            # Even with nothing new: what a duplicate repeats may be visible but not yet durable.
            cursor.execute(_RECORD, (self._own.run_id, *(_SEPARATOR.join(column) for column in columns)))
            ((places,),) = cursor.fetchall()
        if places is None:
            raise CannotFinish("the procedure record_decisions has lost its body; run payproc init")
        mark = max((number for number, each in enumerate(notices, 1) if each.endswith(_COMMIT_MARK)), default=0)
        self._database.refuse_warnings(self._connection, notices[mark:])
        return retry_set(verdicts, new, [int(place) for place in places.split(",")]) if places else []


class RetryBudget:
    """Watches that trying a batch again leads somewhere, and ends it if it does not."""

    def __init__(self) -> None:
        self._fewest_new: int | None = None
        self._failures = 0
        self._first: tuple[InputEvent, int] | None = None
        self._repeats = 0

    def begin(self, new: Sequence[EventResult]) -> None:
        """Note what this attempt is about to write."""
        if self._fewest_new is None or len(new) < self._fewest_new:
            self._fewest_new = len(new)
            self._failures = 0
        # Whatever made an event contested is visible by now, so the next look finds something else: always, unless
        # what is stored contradicts itself.
        first = (new[0].received, new[0].version) if new else None
        self._repeats = self._repeats + 1 if first is not None and first == self._first else 0
        self._first = first
        if first is not None and self._repeats > 2:
            payment_id = json.dumps(first[0].event.payment_id)
            raise CannotFinish(
                f"payment {payment_id}: its stored version, {first[1]}, does not fit its stored history, so nothing "
                "can be recorded for it; somebody has changed the tables by hand"
            )

    def failed(self, error: psycopg2.Error | CannotFinish, connection: psycopg2.extensions.connection) -> None:
        """Pause before the next attempt if the error may pass; raise it if it will not, or has not."""
        passing = bool(connection.closed) or (isinstance(error, psycopg2.Error) and error.pgcode in _PASSING_ERRORS)
        self._failures += 1
        most = MAX_RETRIES if interrupt.signal is None else MAX_RETRIES_AFTER_SIGNAL
        if not passing or self._failures > most:
            raise error
        self._first = None
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1))


class DryRun:
    """Classifies events against what is recorded, and against its own earlier ones, and writes nothing.

    What a real run would leave in the database it has to keep in memory: some hundred bytes an event.
    """

    def __init__(self, database: Database | None) -> None:
        """Connect; with None, where nothing is recorded yet, there is nothing to look up."""
        self._database = database
        self._connection = None if database is None else database.connect()
        self._known = Known({}, {}, {})

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]:
        """Give what would become of each event. Raises CannotFinish if the database cannot be read."""
        if self._connection is not None and self._database is not None:
            try:
                self._learn(self._connection, batch)
            except psycopg2.Error as error:
                if not _refuses_content(error):
                    raise self._database.describe_error(error) from error
                return _bisect(self.handle, batch, error)
        return list[Result](decide(batch, self._known))

    def _learn(self, connection: psycopg2.extensions.connection, batch: Sequence[InputEvent]) -> None:
        recorded, payments, _ = self._known
        found = look_up(
            connection,
            NO_RUN,
            {received.event.event_id for received in batch} - recorded.keys(),
            {received.event.payment_id for received in batch} - payments.keys(),
        )
        recorded.update(found.recorded)
        payments.update(found.payments)
        look_up_conflicts(connection, NO_RUN, batch, self._known)


def _refuses_content(error: psycopg2.Error) -> bool:
    sqlstate = error.pgcode or ""
    return sqlstate[:2] == _DATA_EXCEPTIONS or sqlstate == psycopg2.errorcodes.STATEMENT_TOO_COMPLEX


def _bisect(
    handle: Callable[[Sequence[InputEvent]], list[Result]], batch: Sequence[InputEvent], error: psycopg2.Error
) -> list[Result]:
    """Find what the database refuses to store, so that no good neighbour goes with it."""
    if len(batch) == 1:
        said = error.diag.message_primary or "no reason given"
        return [Malformed(f"the database cannot store it: {said}")]
    middle = len(batch) // 2
    return handle(batch[:middle]) + handle(batch[middle:])
