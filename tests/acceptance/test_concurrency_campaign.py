"""Many processes at once on the same payments, and people deciding in between: each event once, and nobody in the way.

Each seed makes a messy day and hands it to 2 to 8 processes: the whole of it, an overlapping part or a part of their
own, in order or shuffled, while two people work off the review queue, sometimes the same event of it. A failing seed is
repeated by running its test again: `pytest "FILE::TEST[SEED]"`.
"""

import json
import random
import subprocess
import threading
from typing import Any, NamedTuple

import pytest

from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.logic import Resolution
from payproc.review import ReviewDecision, open_reviews, resolve
from tests.support.at_once import check_reports, shares
from tests.support.command import Payproc
from tests.support.model import Line
from tests.support.postgres import Sql, assert_books_right
from tests.support.tally import count
from tests.support.workload import messy_day


class Person(threading.Thread):
    """Somebody who decides about whatever waits, until told to stop; faster than a person can."""

    def __init__(self, database: Database, name: str, seed: float) -> None:
        super().__init__()
        self.database, self.chance, self.by = database, random.Random(seed), name
        self.is_enough = threading.Event()
        self.decided: list[tuple[str, str]] = []
        self.too_late = 0
        self.unexpected: list[CannotFinish] = []

    def run(self) -> None:
        while not self.is_enough.is_set():
            for review in list(open_reviews(self.database, limit=5)):
                self._decide(review.event_id, self.chance.choice(list(Resolution)))

    def _decide(self, event_id: str, resolution: Resolution) -> None:
        try:
            resolve(self.database, event_id, ReviewDecision(resolution, "n", self.by), lambda *_: True)
            self.decided.append((event_id, resolution.value))
        except CannotFinish as error:
            if f'event "{event_id}": was ' in str(error):
                self.too_late += 1  # the other one was first, and is named
            else:
                self.unexpected.append(error)


class Finished(NamedTuple):
    """What a process reported."""

    code: int
    stderr: str
    decisions: list[dict[str, Any]]


def ingest_at_once(payproc: Payproc, parts: list[list[Line]], chance: random.Random) -> list[Finished]:
    """Run a process for each part, all at once."""
    processes: list[subprocess.Popen[bytes]] = []
    for number, part in enumerate(parts):
        (payproc.folder / f"{number}.jsonl").write_bytes(b"\n".join(line.raw for line in part))
        options = ("--decisions", f"{number}.decisions", "--workers", str(chance.choice((1, 2, 4))), "--quiet")
        processes.append(payproc.start("ingest", f"{number}.jsonl", *options))
    finished = []
    for number, process in enumerate(processes):
        _, stderr = process.communicate(timeout=120)
        reported = (payproc.folder / f"{number}.decisions").read_text().splitlines()
        finished.append(Finished(process.returncode, stderr.decode(), [json.loads(row) for row in reported]))
    return finished


@pytest.mark.parametrize("seed", [4, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 112))])
def test_processes_and_people_at_once_record_every_event_once(
    payproc: Payproc, database: Database, sql: Sql, seed: int
) -> None:
    chance = random.Random(seed)
    parts = shares(messy_day(seed, chance.choice((600, 1500))), chance, chance.randrange(2, 9))
    people = [Person(database, name, chance.random()) for name in ("alice", "bob")]
    for person in people:
        person.start()
    try:
        finished = ingest_at_once(payproc, parts, chance)
    finally:
        for person in people:
            person.is_enough.set()
            person.join()

    for number, (code, stderr, decisions) in enumerate(finished):
        malformed = sum("error" in decision for decision in decisions)
        assert code == (3 if malformed else 0), stderr
        assert all(row.startswith((f"{number}.jsonl:", "… and ")) for row in stderr.splitlines()), stderr
        assert len(decisions) == sum(not line.is_blank for line in parts[number])
    check_reports([decision for each in finished for decision in each.decisions if "event_id" in decision], sql)
    assert [person.unexpected for person in people] == [[], []]
    decided = sorted(pair for person in people for pair in person.decided)
    assert decided == sql.rows("SELECT event_id, resolution::text FROM payproc.resolutions ORDER BY 1")
    assert_books_right(sql)
    verified = payproc("verify", "--quiet")
    assert (verified.code, verified.stderr) == (0, "")
    assert sql.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    count("processes at once on the same payments", len(parts))
    count("decisions by people in between", len(decided))
    count("decisions that came too late, by people at once", sum(person.too_late for person in people))
