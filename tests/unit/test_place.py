"""Places: the run, file and line that an event came from, cut to a width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payproc.cli.place import Place, fit_place
from payproc.cli.wrap import measure_text

PLACE = Place("run 7, ", "/var/spool/psp/2026-11-18/events-17.jsonl", ":15177")


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (54, ["run 7, /var/spool/psp/2026-11-18/events-17.jsonl:15177"]),
        (53, ["run 7, …/spool/psp/2026-11-18/events-17.jsonl:15177"]),
        (30, ["run 7, …/events-17.jsonl:15177"]),
        (29, ["run 7,", "…/events-17.jsonl:15177"]),
        (23, ["run 7,", "…/events-17.jsonl:15177"]),
        (22, ["run 7,", "…events-17.jsonl:15177"]),
        (21, ["run 7,", "…vents-17.jsonl:15177"]),
        (16, ["run 7,", "…-17.jsonl:15177"]),
        (15, ["run 7,", "…17.jsonl:15177"]),
        (14, ["run 7,", "….jsonl:15177"]),
        (9, ["run 7,", "…nl:15177"]),
        (7, ["run 7,", "/var/sp", "ool/psp", "/2026-1", "1-18/ev", "ents-17", ".jsonl", ":15177"]),
    ],
)
def test_place_is_cut_on_the_left(width: int, lines: list[str]) -> None:
    """Before a folder where there is room, and never inside a number."""
    assert fit_place(PLACE, width) == lines


def test_place_names_the_whole_file_in_short() -> None:
    assert PLACE.short == "…/events-17.jsonl:15177"
    assert Place("run 1, ", "day.jsonl", ":4").short == "day.jsonl:4"
    assert Place("run 1, ", "/day.jsonl", ":4").short == "/day.jsonl:4"


@given(st.text("ab/019-. é支", min_size=1), st.integers(1, 10**9), st.integers(11, 40))
def test_place_keeps_its_line_and_its_width(path: str, line: int, width: int) -> None:
    lines = fit_place(Place("run 7, ", path, f":{line}"), width)
    assert all(measure_text(shown) <= width for shown in lines)
    assert lines[-1].endswith(f":{line}")
