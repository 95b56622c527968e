"""`payproc verify`: its findings as lines and as JSON, and its exit code."""

import json

import pytest

from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

FINDINGS = """\
payment p1: entry 1: rules_changed: found REJECT payment_failed, created to created, \
expected MANUAL_REVIEW predecessor_missing, created to created
payment p2: wrong_state: found failed, expected authorized
2 payments, 3 entries: 1 problem found
1 recorded decision would have another outcome by today's rules; the histories follow the rules of their time
"""
WRONG_STATE = """
    {"payment_id": "p2", "problem": "wrong_state", "position": null, "found": "failed", "expected": "authorized"}
"""


@pytest.fixture
def filled(run_in_process: InProcess) -> InProcess:
    """The command on two payments with three events."""
    facts = [("e1", "p1", "capture"), ("e2", "p1", "authorize"), ("e3", "p2", "authorize")]
    lines = [event_line(*fact) for fact in facts]
    write_lines(run_in_process.folder / "day.jsonl", lines)
    run_in_process("ingest", "day.jsonl")
    return run_in_process


def test_verify_without_findings_exits_with_0(filled: InProcess) -> None:
    assert filled("verify")[:2] == (0, "2 payments, 3 entries: no problems found\n")
    report = json.loads(filled("verify", "--format", "json").stdout)
    assert report == {"findings": [], "payments": 2, "entries": 3, "problems": {}, "wrong": 0}


def test_verify_with_findings_exits_with_3(filled: InProcess, sql: Sql) -> None:
    sql.rows("UPDATE payproc.payments SET state = 'failed' WHERE payment_id = 'p2'")
    sql.rows("UPDATE payproc.events SET outcome = 'REJECT', reason = 'payment_failed' WHERE event_id = 'e1'")
    assert filled("verify")[:2] == (3, FINDINGS)
    as_json = filled("verify", "--format", "json")
    assert as_json.code == 3
    report = json.loads(as_json.stdout)
    assert report["problems"] == {"wrong_state": 1, "rules_changed": 1}
    assert report["findings"][1] == json.loads(WRONG_STATE)
