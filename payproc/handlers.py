"""Handlers: one batch of events looked up, decided, recorded, and retried if it is contested.

Belongs here: the order of these steps, and the effect that an error in one of them has on a
batch. Handlers coordinate; logic.py decides, and record_decisions.sql writes.

Every event has its own transaction. Speed comes from few round trips instead of big transactions: a
batch takes two queries, a third if it holds conflicts, and one CALL, with one flush for many
commits. A returned result is durable; nothing is reported before.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from payproc.batch import EventResult, InputEvent, Known, Place, Result, decide, get_place, select_retries
from payproc.db.connection import Database
from payproc.db.errors import is_about_connection, is_about_content, is_lost_race, is_transient
from payproc.errors import CannotFinish
from payproc.explain import Malformed
from payproc.lookup import NO_RUN, ThisRun, look_up_conflicts
from payproc.signals import interrupt
from payproc.store import choose_store

MAX_RETRIES = 8
"""Retries after transient errors, counted since the last progress."""

MAX_RETRIES_AFTER_SIGNAL = 4
"""The same once a signal has asked for a stop, because it may have ended the server as well."""

FIRST_PAUSE_SECONDS = 0.05
"""The pause before the first retry. It doubles with each; all eight together take 13 s."""

MAX_REPEATS = 2
"""Repeats of an attempt that begins with the same event on the same version of its payment."""


class Recorder:
    """Records one run's events over one connection. Not for two threads at once."""

    def __init__(self, database: Database, run_id: int) -> None:
        """Connect. Raises CannotFinish if that fails."""
        self._database = database
        self._connection = database.connect()
        try:
            self._store = choose_store(database, self._connection, dry_run=False)
            self._run = ThisRun(run_id, self._now() - self._store.max_clock_skew)
        except psycopg2.Error as error:
            raise self._database.translate(error) from error
        self._may_go_on = True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]:
        """Process events in order; return durable results.

        Raises CannotFinish if the database is unusable. Part of the batch may be recorded; another
        run may repeat it. Later batches are refused, because they would reverse the order of a
        payment's events.
        """
        if not self._may_go_on:
            raise CannotFinish("an earlier batch failed")
        self._may_go_on = False
        results = self._handle(batch)
        self._may_go_on = True
        return results

    def _now(self) -> datetime:
        """Return the server's time."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            ((now,),) = cursor.fetchall()
        return now  # type: ignore[no-any-return]

    def _handle(self, batch: Sequence[InputEvent], *, is_first_attempt: bool = True) -> list[Result]:
        """Settle a batch without the events that the database refuses to store."""
        try:
            return self._settle(batch, is_first_attempt=is_first_attempt)
        except psycopg2.Error as error:
            if not is_about_content(error):
                raise self._database.translate(error) from error
            return _bisect(partial(self._handle, is_first_attempt=False), batch, error)

    def _settle(self, batch: Sequence[InputEvent], *, is_first_attempt: bool) -> list[Result]:
        """Look up, decide and record; repeat that for the contested events until there are none.

        Only a batch that was tried before can find its own events on record. In a first attempt,
        events with this run's number are another's: numbers start again after TRUNCATE … RESTART
        IDENTITY, or a restore without `runs`.
        """
        settled: dict[Place, Result] = {}
        pending = batch
        budget = RetryBudget()
        while pending:
            run = NO_RUN if is_first_attempt else self._run
            is_first_attempt = False
            try:
                results = self._decide(pending, run)
                new = [result for result in results if result.is_new]
                budget.begin(new)
                contested = self._record(results, new)
            except psycopg2.errors.UniqueViolation as error:
                if not is_lost_race(error):
                    raise
                if len(pending) > 1:
                    settled |= self._settle_halves(pending)
                    break
                continue
            except (psycopg2.Error, CannotFinish) as error:
                if isinstance(error, psycopg2.Error) and is_about_connection(error):
                    self._connection.close()  # the driver may still report it as open
                budget.fail(error, self._connection)
                continue
            if not contested and not settled:
                return list[Result](results)
            settled.update((get_place(result.input_event), result) for result in results)
            pending = contested
        return [settled[get_place(input_event)] for input_event in batch]

    def _settle_halves(self, batch: Sequence[InputEvent]) -> dict[Place, Result]:
        """Bisect the batch to isolate the events that another process recorded first."""
        middle = len(batch) // 2
        settled: dict[Place, Result] = {}
        for half in (batch[:middle], batch[middle:]):
            settled.update(zip(map(get_place, half), self._settle(half, is_first_attempt=False), strict=True))
        return settled

    def _decide(self, batch: Sequence[InputEvent], run: ThisRun) -> list[EventResult]:
        """Look up the facts for a batch and decide it. A dead connection is replaced."""
        if self._connection.closed:
            self._connection = self._database.connect()
        events = [input_event.event for input_event in batch]
        known = self._store.look_up(self._connection, run, events)
        look_up_conflicts(self._connection, run, batch, known)
        return decide(batch, known)

    def _record(self, results: Sequence[EventResult], new: Sequence[EventResult]) -> list[InputEvent]:
        """Write the new results and flush everything; return the events to decide again."""
        contested = self._store.record(self._connection, self._run.run_id, new)
        return select_retries(results, new, contested) if contested else []


class RetryBudget:
    """The retries of one batch. It ends them when they make no progress."""

    def __init__(self) -> None:
        self._fewest_new: int | None = None
        self._failures = 0
        self._first: tuple[InputEvent, int] | None = None
        self._repeats = 0

    def begin(self, new: Sequence[EventResult]) -> None:
        """Note the events that this attempt is about to write.

        Raises CannotFinish if they cannot be recorded.
        """
        if self._fewest_new is None or len(new) < self._fewest_new:
            self._fewest_new = len(new)
            self._failures = 0
        # The cause of a contest is committed, so the next look-up differs. If it does not, the
        # tables are inconsistent.
        first = (new[0].input_event, new[0].version) if new else None
        self._repeats = self._repeats + 1 if first is not None and first == self._first else 0
        self._first = first
        if first is not None and self._repeats > MAX_REPEATS:
            payment_id = json.dumps(first[0].event.payment_id)
            raise CannotFinish(
                f"payment {payment_id}: its stored version, {first[1]}, does not fit its stored history, so nothing "
                "can be recorded for it; the tables were edited manually"
            )

    def fail(self, error: psycopg2.Error | CannotFinish, connection: psycopg2.extensions.connection) -> None:
        """Pause before the next attempt; raise a lasting error, or one beyond the budget."""
        self._failures += 1
        most = MAX_RETRIES if interrupt.signal is None else MAX_RETRIES_AFTER_SIGNAL
        if not (connection.closed or is_transient(error)) or self._failures > most:
            raise error
        self._first = None
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1))


class DryRun:
    """Decides events on the recorded ones and on its own earlier ones, and writes nothing.

    It keeps in memory everything that a real run would write: some hundred bytes an event, and its
    line.
    """

    def __init__(self, database: Database | None) -> None:
        """Connect; with None, if nothing is recorded yet, there is nothing to look up."""
        self._database = database
        self._known = Known({}, {}, {})
        if database is not None:
            self._connection = database.connect()
            self._store = choose_store(database, self._connection, dry_run=True)

    def close(self) -> None:
        """Close the connection."""
        if self._database is not None:
            self._connection.close()

    def handle(self, batch: Sequence[InputEvent]) -> list[Result]:
        """Return the result that each event would have.

        Raises CannotFinish if the database cannot be read.
        """
        if self._database is not None:
            try:
                self._learn(batch)
            except psycopg2.Error as error:
                if not is_about_content(error):
                    raise self._database.translate(error) from error
                return _bisect(self.handle, batch, error)
        return list[Result](decide(batch, self._known))

    def _learn(self, batch: Sequence[InputEvent]) -> None:
        """Look up the facts for a batch that are not known yet."""
        recorded, payments, _ = self._known
        unknown = [
            event
            for event in (input_event.event for input_event in batch)
            if event.event_id not in recorded or event.payment_id not in payments
        ]
        found = self._store.look_up(self._connection, NO_RUN, unknown)
        for event_id, on_record in found.recorded.items():
            recorded.setdefault(event_id, on_record)
        for payment_id, state_and_version in found.payments.items():
            payments.setdefault(payment_id, state_and_version)
        look_up_conflicts(self._connection, NO_RUN, batch, self._known)


def _bisect(
    handle: Callable[[Sequence[InputEvent]], list[Result]], batch: Sequence[InputEvent], error: psycopg2.Error
) -> list[Result]:
    """Bisect the batch to isolate the events that the database refuses to store."""
    if len(batch) == 1:
        reason = error.diag.message_primary or "no reason given"
        return [Malformed(f"the database cannot store it: {reason}")]
    middle = len(batch) // 2
    return handle(batch[:middle]) + handle(batch[middle:])
