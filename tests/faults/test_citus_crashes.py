"""A real cluster whose clients and machines are killed: each reported event is recorded once.

Each trial makes a messy day and the decisions of a person about other payments, and kills clients
and machines while both are recorded. The reruns are killed as well, but the last.

PAYPROC_TEST_CITUS names the machines; the tests are skipped without it, and if the machines run on
another host. The seed is in the test's name: `pytest -n0 -m slow "FILE::TEST[SEED]"` repeats it.
"""

import json
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.citus import MACHINES
from tests.support.claims import unused_claims
from tests.support.command import Payproc, RunningCommand, error_line
from tests.support.crashes import FILE, day_of, ingesting, wait_for_random_moment
from tests.support.events import event_line, write_lines
from tests.support.machines import Machine, local_machines, wait_for_recovery
from tests.support.postgres import Contents, Sql, assert_books_right, contents, wait_for
from tests.support.reports import DECISIONS, assert_decisions_recorded, assert_verified, read_decisions
from tests.support.tally import count

TRIALS = 20
CRASHES_A_TRIAL = 3

REVIEWS = 200
"""Pending events that the person of a trial decides."""

SECONDS_AWAY = 60
"""Seconds that a machine is away. A run retries for 13."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MACHINES, reason="needs a Citus cluster, named by PAYPROC_TEST_CITUS"),
]


class Person:
    """A person whose decisions come from a file. The payments are not those of a day."""

    def __init__(self, payproc: Payproc) -> None:
        self._payproc = payproc
        self.reported: set[str] = set()
        names = [f"person_{number}" for number in range(REVIEWS)]
        write_lines(payproc.folder / "reviews.jsonl", [event_line(name, name, "capture") for name in names])
        orders = "".join(f'{{"event_id": "{name}"}}\n' for name in names)
        (payproc.folder / "orders.jsonl").write_text(orders)
        assert payproc("ingest", "reviews.jsonl", "--quiet").code == 0

    @contextmanager
    def deciding(self) -> Iterator[RunningCommand]:
        """Record the decisions in the background. Kill the process at the end."""
        results = self._payproc.folder / "results.jsonl"
        results.unlink(missing_ok=True)
        arguments = ("--from", "orders.jsonl", "--dismiss", "--note", "n", "--by", "alice", "--quiet")
        with self._payproc.start("resolve", *arguments, "--decisions", "results.jsonl") as process:
            try:
                yield process
            finally:
                process.kill()
                _, stderr = process.communicate()
                assert b"Traceback" not in stderr
        lines = results.read_text().splitlines(keepends=True) if results.exists() else []
        decided = [json.loads(line) for line in lines if line.endswith("\n")]
        self.reported |= {each["event_id"] for each in decided if each["result"] == "resolved"}

    def finish(self, sql: Sql) -> None:
        """Record the rest; check that every decision is on record once."""
        recorded = {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.resolutions")}
        assert self.reported <= recorded
        with self.deciding() as process:
            process.communicate(timeout=120)
            assert process.returncode == 0
        assert sql.value("SELECT count(*) FROM payproc.resolutions") == REVIEWS


def without_person(rows: Contents) -> Contents:
    """Return the rows of a day."""
    return {table: [row for row in found if not row[0].startswith("person_")] for table, found in rows.items()}


def strike(target: str, clients: list[RunningCommand], machines: list[Machine], url: URL, chance: random.Random) -> int:
    """Kill a client, a machine, or both; return the number of transactions left in doubt."""
    worker = chance.choice(machines[1:])
    victims = {"client": [], "worker": [worker], "coordinator": machines[:1], "all machines": machines}[target]
    kills_client = target == "client" or chance.random() < 0.5
    if kills_client and chance.random() < 0.5:
        for client in clients:
            client.kill()
    for machine in victims:
        machine.kill()
    found = {gid for machine in machines if machine not in victims for gid in machine.in_doubt(url)}
    if kills_client:
        for client in clients:
            client.kill()
    else:
        time.sleep(chance.random())  # the client meets the gap as well
    for machine in victims:
        machine.start()
    found |= {gid for machine in victims for gid in machine.in_doubt(url)}
    return len(found)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_cluster_killed_at_any_moment(payproc: Payproc, url: URL, seed: int) -> None:
    """A reported event is on record; after the last rerun the crashes have left no trace."""
    machines, day, chance = local_machines(), day_of(seed), random.Random(seed)
    person = Person(payproc)
    reported: list[dict[str, Any]] = []
    for target in chance.choices(("client", "worker", "coordinator", "all machines"), (2, 4, 3, 1), k=CRASHES_A_TRIAL):
        with closing(Sql(url)) as sql, ingesting(payproc, day, chance) as process, person.deciding() as decider:
            wait_for_random_moment(process, payproc, day, chance, sql)
            was_running = process.poll() is None
            left = strike(target, [process, decider], machines, url, chance)
            code = process.wait(timeout=120)
            decider.wait(timeout=120)
        stderr = (payproc.folder / "stderr").read_text()
        assert code in (-signal.SIGKILL, 1, 3), stderr
        assert "Traceback" not in stderr
        reported += read_decisions(payproc.folder / DECISIONS)
        if chance.random() < 0.7:  # otherwise the next run meets the transactions in doubt
            wait_for_recovery(machines, url)
            with closing(Sql(url)) as sql:
                assert_books_right(sql)
        count(f"crashes of a cluster: {target}")
        count("crashes of a cluster while a run was recording", was_running)
        count("crashes of a cluster that left a transaction in doubt", left > 0)
        count("transactions in doubt after a crash of a cluster, all settled", left)
    finished = payproc("ingest", FILE, "--quiet")
    assert finished.code == 3, finished.stderr
    wait_for_recovery(machines, url)
    with closing(Sql(url)) as sql:
        count("events reported before a cluster crashed, all on record", assert_decisions_recorded(reported, sql))
        person.finish(sql)
        assert without_person(contents(sql)) == day.contents
        assert_books_right(sql)
        assert sql.rows("SELECT event_id FROM payproc.events GROUP BY event_id HAVING count(*) > 1") == []
        assert unused_claims(sql) == 0
    assert_verified(payproc)


def machine_of(sql: Sql, payment_id: str) -> str:
    """Return the machine of a payment, as host:port."""
    return str(
        sql.value(
            "SELECT nodename || ':' || nodeport FROM pg_dist_placement JOIN pg_dist_node USING (groupid)"
            " WHERE shardid = get_shard_id_for_distribution_column('payproc.payments', %s)",
            payment_id,
        )
    )


def test_worker_away_for_a_minute(payproc: Payproc, sql: Sql) -> None:
    """A run retries, then names the machine. A person works on, on the machines that are there."""
    _, here, lost = local_machines()[:3]
    payments = {machine_of(sql, name): name for name in (f"person_{number}" for number in range(REVIEWS))}
    person = Person(payproc)
    day, chance = day_of(3), random.Random(3)
    dismiss = ("--dismiss", "--note", "n", "--by", "bob", "--yes", "--quiet")
    with ingesting(payproc, day, chance) as process:
        wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > REVIEWS + 100)
        with lost.away():
            began = time.monotonic()
            code = process.wait(timeout=SECONDS_AWAY)
            waited = time.monotonic() - began
            (line,) = re.findall(r"^payproc: .*refused: .*", (payproc.folder / "stderr").read_text(), re.MULTILINE)
            assert (code, lost.name in line) == (1, True), line
            assert 10 < waited < 30, waited
            while time.monotonic() - began < SECONDS_AWAY:
                assert payproc("show", payments[here.name], "--quiet").code == 0
                assert lost.name in error_line(payproc("show", payments[lost.name], "--quiet"), 1)
                assert lost.name in error_line(payproc("status", "--quiet"), 1)
                assert lost.name in error_line(payproc("resolve", payments[lost.name], *dismiss), 1)
            assert payproc("resolve", payments[here.name], *dismiss).code == 0
    reported = read_decisions(payproc.folder / DECISIONS)
    assert payproc("ingest", FILE, "--quiet").code == 3
    assert_decisions_recorded(reported, sql)
    person.finish(sql)
    assert without_person(contents(sql)) == day.contents
    assert_books_right(sql)
    assert_verified(payproc)
    count("seconds that a run went on without a machine", round(waited))
