"""`payproc status`: the database at a glance, for people and for cron."""

import json
import re

import pytest

from tests.support.command import messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

FIRST = [
    event_line("e1", "p1", "authorize"),
    event_line("e2", "p1", "flag"),
    event_line("e9", "p9", "fail"),
    event_line("e10", "p9", "capture"),  # rejected
]

SECOND = [
    event_line("e3", "p2", "capture"),  # legal once its authorize has come
    event_line("e4", "p2", "authorize"),
    event_line("e5", "p3", "fail"),
    event_line("e6", "p3", "capture"),  # rejected
    event_line("e6", "p4", "capture"),  # a conflict
    event_line("e7", "p5", "capture"),
    event_line("e8", "p6", "refund"),
]


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command after two runs, a resolution, and a run that was killed before them."""
    for name, lines in (("first.jsonl", FIRST), ("second.jsonl", SECOND)):
        write_lines(shared.folder / name, lines)
        shared("ingest", name, "--workers", "1", "--label", f"the {name}")
    shared("resolve", "e8", "--dismiss", "--note", "x", "--yes")
    return shared


def test_status_json_counts_the_database(filled: InProcess) -> None:
    status = json.loads(filled("status", "--format", "json").stdout)
    assert status.pop("database").startswith("postgresql://")
    assert int(status.pop("server").partition(".")[0]) >= 14
    oldest = status.pop("oldest_waiting")
    assert oldest.pop("recorded_at").endswith("Z")
    assert oldest == {"event_id": "e2", "payment_id": "p1"}
    (newest,) = (json.loads(row) for row in filled("runs", "--limit", "1", "--format", "json").stdout.splitlines())
    assert status.pop("last_run") == newest
    assert status == {
        "schema": 3,
        "payments": {"created": 2, "authorized": 2, "captured": 0, "refunded": 0, "failed": 2},
        "waiting": {"events": 3, "legal_now": 1},
        "waiting_by_reason": {
            "predecessor_missing": {"events": 2, "legal_now": 1},
            "flagged": {"events": 1, "legal_now": 0},
        },
        "rejected_in_last_run": 2,
        "unfinished_runs": [],
    }


def test_status_table_tells_the_same(filled: InProcess) -> None:
    shown = [" ".join(row.split()) for row in filled("status").stdout.splitlines()]
    assert shown[1].startswith("Server PostgreSQL ")
    assert shown[2:6] == ["Payments 6", "2 created", "2 authorized", "2 failed"]
    assert shown[6:9] == [
        "Need review 3 events, 1 legal now",
        "2 predecessor_missing: the step before it is missing, 1 legal now",
        "1 flagged: it is a report that only a person can judge",
    ]
    assert shown[9].startswith("oldest: e2, ")
    assert shown[10].startswith("Last run run 2 (the second.jsonl), 2")
    assert shown[10].endswith(" UTC, finished: 7 events")
    assert shown[11:] == ["2 events were rejected; run payproc history --run 2 --outcome REJECT", "Unfinished none"]


def test_status_rejected_are_those_of_history(filled: InProcess) -> None:
    count = json.loads(filled("status", "--format", "json").stdout)["rejected_in_last_run"]
    listed = filled("history", "--run", "2", "--outcome", "REJECT", "--format", "json").stdout
    assert len(listed.splitlines()) == count


@pytest.mark.parametrize(
    ("options", "code", "lines"),
    [
        ("--max-waiting 3 --max-age 1h", 0, []),
        ("--max-waiting 2", 3, ["payproc: --max-waiting 2: 3 events need review"]),
        ("--max-age 0s", 3, ['payproc: --max-age 0 s: event "e2" has waited for N s']),
        (
            "--max-waiting 0 --max-age 0d",
            3,
            ["payproc: --max-waiting 0: 3 events need review", 'payproc: --max-age 0 s: event "e2" has waited for N s'],
        ),
    ],
)
def test_status_limit_passed_exits_with_3(filled: InProcess, options: str, code: int, lines: list[str]) -> None:
    """With a line on each; the status itself is printed all the same."""
    finished = filled("status", "--quiet", *options.split())
    assert finished.code == code
    assert [re.sub(r"for \d+ s$", "for N s", line) for line in messages(finished)] == lines
    assert "Need review" in finished.stdout


def test_status_of_an_empty_database(run_in_process: InProcess) -> None:
    status = json.loads(run_in_process("status", "--format", "json").stdout)
    assert status["waiting"] == {"events": 0, "legal_now": 0}
    assert (status["oldest_waiting"], status["last_run"], status["rejected_in_last_run"]) == (None, None, 0)
    shown = [" ".join(row.split()) for row in run_in_process("status", "--max-age", "0s").stdout.splitlines()]
    assert shown[2:] == ["Payments 0", "Need review none", "Last run none", "Unfinished none"]


def test_status_counts_one_of_each(run_in_process: InProcess, sql: Sql) -> None:
    """The words are in the singular, and a run that was killed is not finished."""
    day = [event_line("e1", "p1", "fail"), event_line("e2", "p1", "capture"), b"[]"]
    day.append(event_line("e3\u202e", "p2", "flag"))
    run_in_process("ingest", "-", stdin=b"\n".join(day))
    sql.rows("UPDATE payproc.runs SET finished_at = NULL")
    finished = run_in_process("status", "--quiet", "--max-waiting", "0", "--max-age", "0s", "--format", "json")
    assert finished.code == 3
    assert [re.sub(r"for \d+ s$", "for N s", line) for line in messages(finished)] == [
        "payproc: --max-waiting 0: 1 event needs review",
        'payproc: --max-age 0 s: event "e3\\u202e" has waited for N s',
    ]
    shown = [" ".join(row.split()) for row in run_in_process("status").stdout.splitlines()]
    assert shown[5] == "Need review 1 event, 0 legal now"
    assert shown[8].endswith(" UTC, not finished: 3 events")
    assert shown[9:] == [
        "1 malformed line",
        "1 event was rejected; run payproc history --run 1 --outcome REJECT",
        "Unfinished run 1",
    ]


def test_status_lists_unfinished_runs(run_in_process: InProcess, sql: Sql) -> None:
    for _ in range(2):
        sql.rows("INSERT INTO payproc.runs (sources) VALUES ('{killed.jsonl}')")
    run_in_process("ingest", "-", stdin=FIRST[0])
    assert json.loads(run_in_process("status", "--format", "json").stdout)["unfinished_runs"] == [2, 1]
    assert "runs 2, 1" in run_in_process("status").stdout
