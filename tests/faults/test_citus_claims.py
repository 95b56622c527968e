"""One event_id under two payments on a real cluster: exactly one of the events is recorded.

Two processes record both at once; or a run is killed after it has claimed the event_id, and before
it has recorded the event. Without a cluster the claims are tested in integration/test_claims.py.
"""

import random
from contextlib import closing

import pytest
from sqlalchemy import URL

from tests.support.citus import MACHINES
from tests.support.claims import has_claims, unused_claims
from tests.support.command import Payproc
from tests.support.concurrency import assert_each_recorded_once
from tests.support.events import event_line, write_lines
from tests.support.machines import local_machines
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.reports import assert_decisions_recorded, assert_verified, read_decisions
from tests.support.tally import count

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MACHINES, reason="needs a Citus cluster, named by PAYPROC_TEST_CITUS"),
]


def rivals(number: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return two files with the same event_ids, each for payments of its own."""
    files = []
    for name in ("left", "right"):
        lines = []
        for each in range(count):
            payment = f"{name}_{number}_{each}"
            lines.append(event_line(f"both_{number}_{each}", payment, "authorize"))
            lines.append(event_line(f"{payment}_capture", payment, "capture"))
        files.append(lines)
    return files[0], files[1]


@pytest.mark.parametrize("seed", range(8))
def test_event_id_used_twice_at_once(payproc: Payproc, sql: Sql, seed: int) -> None:
    """One is recorded, the other one is a conflict in the report of its process."""
    chance = random.Random(seed)
    processes = []
    for number, lines in enumerate(rivals(seed, 500)):
        write_lines(payproc.folder / f"{number}.jsonl", lines)
        options = ("--quiet", "--workers", str(chance.choice((1, 2, 4))), "--decisions", f"{number}.decisions")
        processes.append(payproc.start("ingest", f"{number}.jsonl", *options))
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert (process.returncode, stderr) == (0, b"")
    decisions = [each for number in range(2) for each in read_decisions(payproc.folder / f"{number}.decisions")]
    assert_each_recorded_once(decisions, sql)
    assert sum(each["reason"] == "event_id_conflict" for each in decisions) == 500
    assert unused_claims(sql) == 0
    assert_books_right(sql)
    assert_verified(payproc)
    count("event_ids used twice at once, one of them a conflict", 500)


def kill_after(payproc: Payproc, url: URL, event_ids: str, claimed: int) -> None:
    """Ingest left.jsonl, and kill the process once more than so many event_ids are claimed."""
    with closing(Sql(url)) as sql:
        table = "event_ids" if has_claims(sql) else "events"
        query = f"SELECT count(*) > %s FROM payproc.{table} WHERE event_id LIKE %s"
        process = payproc.start("ingest", "left.jsonl", "--quiet", "--decisions", "killed")
        wait_for(lambda: sql.value(query, claimed, event_ids) or process.poll() is not None)
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stops_worker", [False, True], ids=["client", "client and worker"])
def test_claim_outlives_its_run(payproc: Payproc, url: URL, stops_worker: bool) -> None:
    """A run is killed between claim and record.

    Then come the other payment's event, and the rerun.
    """
    chance = random.Random(stops_worker)
    claims = 0
    for trial in range(8 if stops_worker else 20):
        left, right = rivals(trial, 400)
        write_lines(payproc.folder / "left.jsonl", left)
        write_lines(payproc.folder / "right.jsonl", right)
        kill_after(payproc, url, f"both_{trial}_%", chance.choice((0, 0, 100, 300)))
        if stops_worker:
            with chance.choice(local_machines()[1:]).away():
                pass
        with closing(Sql(url)) as sql:
            claims += unused_claims(sql)
        assert payproc("ingest", "right.jsonl", "--quiet", "--decisions", "right").code == 0
        assert payproc("ingest", "left.jsonl", "--quiet", "--decisions", "left").code == 0
        with closing(Sql(url)) as sql:
            killed, *rest = (read_decisions(payproc.folder / name) for name in ("killed", "right", "left"))
            assert_decisions_recorded([*killed, *rest[0], *rest[1]], sql)
            both = [each for decisions in rest for each in decisions]
            conflicts = {each["event_id"] for each in both if each["reason"] == "event_id_conflict"}
            assert conflicts == {f"both_{trial}_{number}" for number in range(400)}
            assert unused_claims(sql) == 0
            assert_books_right(sql)
        (payproc.folder / "killed").unlink(missing_ok=True)
    assert_verified(payproc)
    with closing(Sql(url)) as sql:
        assert claims > 0 or not has_claims(sql)
    count("event_ids claimed by a run that was killed before it recorded them", claims)
