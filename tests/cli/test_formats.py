"""`--format`: the same result as JSON on many lines or on one, and listings as CSV."""

import csv
import json

import pytest

from tests.support.documents import ROOT
from tests.support.in_process import InProcess


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command on the samples, with a correction, which has a note."""
    shared("ingest", *sorted((ROOT / "sample_events").glob("*.jsonl")))
    shared("correct", "pay_coat", "--to", "failed", "--note", "=HYPERLINK(1)", "--yes")
    return shared


@pytest.mark.parametrize("command", ["show pay_coat", "status", "verify", "rules", "resolve --all --dismiss --dry-run"])
def test_jsonl_is_the_json_on_one_line(filled: InProcess, command: str) -> None:
    arguments = command.split() + ["--note=x"] * ("resolve" in command)
    one_line, lines = (filled(*arguments, "--format", name).stdout for name in ("jsonl", "json"))
    assert one_line.count("\n") == 1 < lines.count("\n")
    found, expected = json.loads(one_line), json.loads(lines)
    assert found | {"elapsed_seconds": 0} == expected | {"elapsed_seconds": 0}


def test_jsonl_of_an_ingest_is_its_last_line(filled: InProcess) -> None:
    done = filled("ingest", "--format", "jsonl", "-", stdin=b"")
    assert json.loads(done.stdout.splitlines()[-1])["lines"] == 0


@pytest.mark.parametrize("command", ["review", "payments", "runs", "history"])
def test_csv_has_the_rows_and_fields_of_json(filled: InProcess, command: str) -> None:
    rows = list(csv.DictReader(filled(command, "--format", "csv").stdout.splitlines()))
    objects = [json.loads(line) for line in filled(command, "--format", "jsonl").stdout.splitlines()]
    assert len(rows) == len(objects) > 0
    for row, found in zip(rows, objects, strict=True):
        assert found.keys() <= {column.partition(".")[0] for column in row}
        assert row.get("payment_id") == found.get("payment_id")
        if "payload" in found:
            assert json.loads(row["payload"]) == found["payload"]


def test_note_is_no_formula_in_csv(filled: InProcess) -> None:
    (row,) = csv.DictReader(filled("history", "--kind", "correction", "--format", "csv").stdout.splitlines())
    assert row["note"] == "'=HYPERLINK(1)"
