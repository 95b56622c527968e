"""`payproc ingest` with conflicts that are on record already: marked, counted, and no failure."""

import json
from pathlib import Path

import pytest

from tests.support.command import Finished, Payproc
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import NewDatabase, Sql

CONFLICTS = [("e1", "p1", "authorize"), ("e1", "p2", "authorize"), ("e1", "p1", "refund"), ("e1", "p2", "authorize")]


@pytest.fixture
def conflicts(tmp_path: Path) -> Path:
    """An event and three lines that contradict it, the last of which repeats the first of them."""
    return write_lines(tmp_path / "conflicts.jsonl", [event_line(*fact) for fact in CONFLICTS])


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["real", "dry run"])
def test_known_conflicts_are_marked_and_counted(run_in_process: InProcess, conflicts: Path, dry_run: list[str]) -> None:
    command = ("ingest", "conflicts.jsonl", "--workers", "1", *dry_run, "--decisions", "-")
    assert decisions(run_in_process(*command), "known") == [None, None, None, True]
    run_in_process("ingest", "conflicts.jsonl")
    assert decisions(run_in_process(*command), "known") == [None, True, True, True]
    summary = run_in_process.summary("conflicts.jsonl", *dry_run)
    assert summary["known_conflicts"] == 3
    assert summary["reasons"] == {"event_id_conflict": 3, "duplicate_event": 1}
    assert sum(summary["outcomes"].values()) == summary["events"] == 4


def test_fail_on_reject_ignores_known_conflicts(run_in_process: InProcess, conflicts: Path, sql: Sql) -> None:
    """So the replay of a day stays clean."""
    gate = ("ingest", "-", "--quiet", "--fail-on", "REJECT")
    day = conflicts.read_bytes()
    assert run_in_process(*gate, stdin=day) == (3, "", "payproc: --fail-on REJECT: 2 events were rejected\n")
    assert run_in_process(*gate, stdin=day) == (0, "", "")
    more = day + event_line("e1", "p3", "fail") + b"\n"
    assert run_in_process(*gate, "--dry-run", stdin=more).code == 3
    assert "event_id_conflict 4 (3 known)" in run_in_process("ingest", "-", stdin=more).stdout
    assert run_in_process(*gate, stdin=more) == (0, "", "")
    assert sql.value("SELECT rejected FROM payproc.runs ORDER BY run_id DESC LIMIT 1") == 4


def test_known_conflicts_with_any_number_of_workers(tmp_path: Path, new_database: NewDatabase, template: str) -> None:
    """The conflicts with one event are under several payments, which belong to several workers."""
    facts = [("e1", "p0", "authorize"), *[("e1", f"p{number % 7}", "capture") for number in range(50)]]
    write_lines(tmp_path / "day.jsonl", [event_line(*fact) for fact in facts])
    expected = [None] + [None] * 7 + [True] * 43
    for workers in ("1", "2", "5"):
        run = InProcess(tmp_path, new_database(template))
        decided = run("ingest", "day.jsonl", "--workers", workers, "--decisions", "-")
        assert decisions(decided, "known") == expected


def test_conflict_of_a_retried_batch_is_new(payproc: Payproc, run_in_process: InProcess, sql: Sql) -> None:
    """The connection dies after the run has recorded the conflict. The retry reports it as new."""
    run_in_process("ingest", "-", stdin=event_line("e0", "slow", "authorize") + b"\n" + event_line("e1", "p1", "fail"))
    facts = [("e1", "p2", "authorize"), ("e2", "slow", "capture"), ("e1", "p2", "authorize")]
    write_lines(payproc.folder / "day.jsonl", [event_line(*fact) for fact in facts])
    with payproc.start("ingest", "day.jsonl", "--workers", "1", "--decisions", "-") as process:
        with sql.locked_payment("slow"):
            backend = sql.wait_for_blocked()
            assert sql.value("SELECT count(*) FROM payproc.event_conflicts") == 1
            assert sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
        stdout, _ = process.communicate()
    assert [json.loads(row).get("known") for row in stdout.splitlines()] == [None, None, True]


def decisions(finished: Finished, field: str) -> list[object]:
    """Return a field of each decision on stdout, None where it is missing."""
    return [json.loads(row).get(field) for row in finished.stdout.splitlines()]
