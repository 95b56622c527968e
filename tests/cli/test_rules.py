"""`payproc rules`: the decision table."""

import json
from pathlib import Path

from tests.support.in_process import InProcess

FIRST = """
    {"state": "created", "type": "authorize", "outcome": "APPLY", "reason": "transition", "next_state": "authorized"}
"""


def test_rules_are_the_same_in_table_and_json(tmp_path: Path) -> None:
    run = InProcess(tmp_path, None)
    rules = json.loads(run("rules", "--format", "json").stdout)
    assert len(rules["table"]) == 25
    assert rules["table"][0] == json.loads(FIRST)
    assert [rule["reason"] for rule in rules["before_the_state"]] == ["event_id_conflict", "duplicate_event"]
    printed = run("rules").stdout.splitlines()
    rows = [row.split() for row in printed[2 : printed.index("")] if row.strip()]
    assert rows == [list(rule.values()) for rule in rules["table"]]
    assert max(map(len, printed)) <= 80
