"""Concurrent processes on the same payments, and people who resolve and correct: each event once.

Each seed makes a messy day and gives it to 2 to 8 processes: the whole day, an overlapping part or
a disjoint one, in order or shuffled. Meanwhile two people work through the review queue, sometimes
pick the same event, and correct some of its payments.

The seed is in the test's name: `pytest -m "slow or not slow" "FILE::TEST[SEED]"` repeats it.
"""

import random
import threading
from typing import Any, NamedTuple

import pytest

from payproc.corrections import Correction, correct
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.logic import Resolution, State
from payproc.review import ReviewDecision, resolve_review
from payproc.review_queue import open_reviews
from tests.support.command import Payproc
from tests.support.concurrency import assert_each_recorded_once, shares
from tests.support.events import event_line, write_lines
from tests.support.model import Line
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.reports import assert_verified, read_decisions
from tests.support.tally import count
from tests.support.workload import messy_day

COULD_NOT_SERIALIZE = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"


class Person(threading.Thread):
    """A reviewer who resolves and corrects without a pause, until `is_done` is set."""

    def __init__(self, database: Database, name: str, seed: float) -> None:
        super().__init__()
        self.database, self.chance, self.by = database, random.Random(seed), name
        self.is_done = threading.Event()
        self.resolved: list[tuple[str, str]] = []
        self.corrected: list[tuple[str, int]] = []
        self.too_late = 0
        self.unexpected: list[CannotFinish] = []

    def run(self) -> None:
        while not self.is_done.is_set():
            for review in list(open_reviews(self.database, limit=5)):
                self._resolve(review.event_id, self.chance.choice(list(Resolution)))
                if self.chance.random() < 0.3:
                    self._correct(review.payment_id, self.chance.choice(list(State)))

    def _resolve(self, event_id: str, resolution: Resolution) -> None:
        try:
            resolve_review(self.database, event_id, ReviewDecision(resolution, "n", self.by), lambda *_: True)
            self.resolved.append((event_id, resolution.value))
        except CannotFinish as error:
            if f'event "{event_id}": already resolved: ' in str(error):
                self.too_late += 1  # the other person was first
            else:
                self.unexpected.append(error)

    def _correct(self, payment_id: str, state: State) -> None:
        try:
            corrected = correct(self.database, payment_id, Correction(state, "n", self.by), lambda _: True)
            assert corrected is not None
            self.corrected.append((payment_id, corrected[1]))
        except CannotFinish as error:
            if "is already " not in str(error):
                self.unexpected.append(error)


class Finished(NamedTuple):
    """The results of one process."""

    code: int
    stderr: str
    decisions: list[dict[str, Any]]


def ingest_shares(payproc: Payproc, parts: list[list[Line]], chance: random.Random) -> list[Finished]:
    """Run one process a share, all at the same time."""
    processes = []
    for number, part in enumerate(parts):
        (payproc.folder / f"{number}.jsonl").write_bytes(b"\n".join(line.raw for line in part))
        options = ("--decisions", f"{number}.decisions", "--workers", str(chance.choice((1, 2, 4))), "--quiet")
        processes.append(payproc.start("ingest", f"{number}.jsonl", *options))
    finished = []
    for number, process in enumerate(processes):
        _, stderr = process.communicate(timeout=120)
        decisions = read_decisions(payproc.folder / f"{number}.decisions")
        finished.append(Finished(process.returncode, stderr.decode(), decisions))
    return finished


@pytest.mark.parametrize("seed", [4, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 112))])
def test_processes_and_people_record_each_event_once(payproc: Payproc, database: Database, sql: Sql, seed: int) -> None:
    """Every process reports every line, every resolution is on record, and no deadlock occurs."""
    chance = random.Random(seed)
    parts = shares(messy_day(seed, chance.choice((600, 1500))), chance, chance.randrange(2, 9))
    people = [Person(database, name, chance.random()) for name in ("alice", "bob")]
    for person in people:
        person.start()
    try:
        finished = ingest_shares(payproc, parts, chance)
    finally:
        for person in people:
            person.is_done.set()
            person.join()

    for number, (code, stderr, decisions) in enumerate(finished):
        malformed = sum("error" in decision for decision in decisions)
        assert code == (3 if malformed else 0), stderr
        assert all(row.startswith((f"{number}.jsonl:", "… and ")) for row in stderr.splitlines()), stderr
        assert len(decisions) == sum(not line.is_blank for line in parts[number])
    everything = [decision for each in finished for decision in each.decisions if "event_id" in decision]
    assert_each_recorded_once(everything, sql)
    assert [person.unexpected for person in people] == [[], []]
    resolved = sorted(pair for person in people for pair in person.resolved)
    assert resolved == sql.rows("SELECT event_id, resolution::text FROM payproc.resolutions ORDER BY 1")
    corrected = sorted(pair for person in people for pair in person.corrected)
    assert corrected == sql.rows("SELECT payment_id, position FROM payproc.corrections ORDER BY 1, 2")
    assert_books_right(sql)
    assert_verified(payproc)
    assert sql.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    count("processes at once on the same payments", len(parts))
    count("decisions by people in between", len(resolved) + len(corrected))
    count("decisions that came too late, by people at once", sum(person.too_late for person in people))


@pytest.mark.slow
def test_serializable_processes_record_events_once(payproc: Payproc, sql: Sql) -> None:
    """A transaction that fails is retried, and its events are reported as new.

    All processes first write to the same locked payment, so all but one of them fail there.
    """
    sql.rows(f"ALTER DATABASE \"{sql.url.database}\" SET default_transaction_isolation = 'serializable'")
    authorized = event_line("e1", "p1", "authorize")
    assert payproc("ingest", "-", "--quiet", "--decisions", "first.decisions", stdin=authorized).code == 0
    day = [line.raw for line in messy_day(11, 4000)]
    write_lines(payproc.folder / "day.jsonl", [event_line("e2", "p1", "capture"), *day])
    arguments = ("ingest", "day.jsonl", "--quiet", "--decisions")
    with sql.locked_payment("p1"):
        processes = [payproc.start(*arguments, f"{number}.decisions") for number in range(4)]
        sql.wait_for_blocked(len(processes))
        before = sql.value(COULD_NOT_SERIALIZE)
    decisions = read_decisions(payproc.folder / "first.decisions")
    for number, process in enumerate(processes):
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 3, stderr.decode()
        decisions += read_decisions(payproc.folder / f"{number}.decisions")
    assert_each_recorded_once([decision for decision in decisions if "event_id" in decision], sql)
    # A backend saves its statistics at its end, which a client does not wait for.
    wait_for(lambda: sql.value(COULD_NOT_SERIALIZE) - before >= len(processes) - 1)
    count("serialization failures, all tried again", sql.value(COULD_NOT_SERIALIZE) - before)
    assert_verified(payproc)
