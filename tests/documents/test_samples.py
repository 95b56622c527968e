"""Every sample file has the outcomes of its story."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.in_process import InProcess

SAMPLES = Path(__file__).parents[2] / "sample_events"

STORIES: dict[str, dict[str, Any]] = {
    "clean_day": {"reasons": {"transition": 11}},
    "redeliveries": {
        "reasons": {"duplicate_event": 3, "transition": 2, "already_in_state": 1, "superseded": 1},
        "differing_duplicates": 3,
    },
    "capture_before_authorize": {"reasons": {"transition": 2, "predecessor_missing": 2}},
    "refund_race": {"reasons": {"transition": 3, "capture_after_refund": 1, "repeated_refund": 1}},
    "contradictions": {
        "reasons": {
            "transition": 4,
            "already_in_state": 1,
            "payment_failed": 1,
            "failure_after_capture": 1,
            "authorize_after_failure": 1,
        }
    },
    "outage": {"reasons": {"transition": 4, "predecessor_missing": 4}},
    "reused_ids": {
        "reasons": {"event_id_conflict": 2, "duplicate_event": 1, "transition": 2},
        "differing_duplicates": 1,
    },
    "malformed_lines": {"reasons": {"transition": 2}, "malformed": 6},
}

OUTCOME_OF = {
    "APPLY": {"transition"},
    "IGNORE": {"duplicate_event", "already_in_state", "superseded"},
    "REJECT": {"event_id_conflict", "payment_failed"},
    "MANUAL_REVIEW": {
        "predecessor_missing",
        "failure_after_capture",
        "capture_after_refund",
        "repeated_refund",
        "authorize_after_failure",
    },
}


def test_samples_are_all_tested() -> None:
    assert {path.stem for path in SAMPLES.glob("*.jsonl")} == set(STORIES)


@pytest.mark.parametrize("name", STORIES)
def test_sample_has_its_outcomes(tmp_path: Path, url: URL, name: str) -> None:
    story = {"malformed": 0, "differing_duplicates": 0, **STORIES[name]}
    path = str(SAMPLES / f"{name}.jsonl")
    summary = InProcess(tmp_path, url).summary(path, code=3 if story["malformed"] else 0)
    assert summary.pop("elapsed_seconds") >= 0
    assert summary.pop("database").startswith("postgresql://")
    events = sum(story["reasons"].values())
    assert summary == {
        "run_id": 1,
        "source": [path],
        "known_conflicts": 0,
        "dry_run": False,
        **story,
        "lines": events + story["malformed"],
        "events": events,
        "outcomes": {
            outcome: sum(story["reasons"].get(reason, 0) for reason in reasons)
            for outcome, reasons in OUTCOME_OF.items()
        },
    }


@pytest.mark.slow
def test_samples_do_not_interfere(tmp_path: Path, url: URL) -> None:
    """A reader runs them one after another on the same database."""
    for name, story in STORIES.items():
        finished = InProcess(tmp_path, url)("ingest", str(SAMPLES / f"{name}.jsonl"), "--format", "json")
        assert json.loads(finished.stdout)["reasons"] == story["reasons"]
