"""Listings for programs: the columns and cells of CSV."""

import csv
import json
from datetime import datetime, timezone
from typing import Any

import pytest

from payproc.cli.listings import list_columns, print_listing
from payproc.cli.options import ListingFormat
from payproc.history import ENTRY_KINDS
from payproc.listing import ListedPayment
from payproc.review import Review
from payproc.runs import Run

ROW: dict[str, Any] = {
    "payment_id": "p1",
    "state": "captured",
    "state_since": datetime(2026, 11, 20, tzinfo=timezone.utc).isoformat(),
    "version": 2,
    "created_at": None,
    "waiting": 0,
}


def print_csv(capsys: pytest.CaptureFixture[str], **fields: object) -> dict[str, str]:
    """Print one payment with other fields as CSV. Return its cells by column."""
    print_listing([json.dumps(ROW | fields)], [ListedPayment], ListingFormat.CSV)
    header, row = csv.reader(capsys.readouterr().out.splitlines())
    return dict(zip(header, row, strict=True))


def test_columns_are_the_fields_of_json() -> None:
    assert list_columns([ListedPayment]) == [*ROW]
    assert list_columns([Run])[-4:] == [f"outcomes.{name}" for name in ("APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW")]
    assert list_columns([Review])[-1] == "payload"
    columns = list_columns(ENTRY_KINDS)
    assert (columns[:2], columns[-1]) == (["payment_id", "kind"], "payload")
    assert {"note", "recorded.payment_id", "recorded.type"} < {*columns}


def test_cells_are_the_values_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    cells = print_csv(capsys)
    assert cells == {name: "" if value is None else str(value) for name, value in ROW.items()}


def test_commas_and_quotes_stay_in_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_csv(capsys, payment_id='a,"b"')["payment_id"] == 'a,"b"'


def test_line_feed_stays_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_csv(capsys, payment_id="a\nb\u202e")["payment_id"] == r"a\nb\u202e"


def test_different_texts_have_different_cells(capsys: pytest.CaptureFixture[str]) -> None:
    for one, other in (("\u202e", r"\u202e"), ("=1", "'=1")):
        assert print_csv(capsys, payment_id=one) != print_csv(capsys, payment_id=other)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1"])
def test_formula_gets_an_apostrophe(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert print_csv(capsys, payment_id=text)["payment_id"] == f"'{text}"


def test_number_below_zero_is_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_csv(capsys, waiting=-1)["waiting"] == "-1"


def test_empty_listing_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_listing([], [ListedPayment], ListingFormat.CSV)
    assert capsys.readouterr().out == ",".join(ROW) + "\n"
