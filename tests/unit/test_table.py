"""Tables: widths of columns, wrapping, and styles."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payproc.cli.place import Place
from payproc.cli.table import GAP, SAMPLE_ROWS, Column, Row, Styled, fit_widths, lay_out, measure_columns
from payproc.cli.wrap import join_parts, measure_text, wrap

TEXTS = st.text(st.one_of(st.characters(categories=["L", "N", "P", "S"]), st.sampled_from("ab  →é支😀\u0301")))


def draw(columns: list[Column], rows: list[Row], width: int = 80) -> list[str]:
    """Lay a table out without styles."""
    return list(lay_out(columns, rows, width, lambda styled: styled.text))


def compute_widths(columns: list[Column], rows: list[Row], width: int) -> list[int]:
    """Return the widths of a table that stacks no fields."""
    return fit_widths(columns, [[number] for number in range(len(columns))], measure_columns(columns, rows), width)


def test_columns_follow_their_content() -> None:
    columns = [Column("Outcome"), Column("Events", is_number=True), Column("Reasons")]
    assert draw(columns, [(Styled("APPLY", "green"), "1,234,567", ["transition 3", "x"]), ("IGNORE", "0", [])]) == [
        "Outcome     Events  Reasons     ",
        "────────────────────────────────",
        "APPLY    1,234,567  transition 3",
        "                    x           ",
        "IGNORE           0              ",
    ]


def test_headers_align_at_the_bottom() -> None:
    assert draw([Column("#", is_number=True), Column("Event\nType")], [("1", ["e1", "fail"]), (), ("2", "e2")]) == [
        "   Event",
        "#  Type ",
        "────────",
        "1  e1   ",
        "   fail ",
        "        ",
        "2  e2   ",
    ]


def test_table_without_rows_is_its_header() -> None:
    assert draw([Column("Run"), Column("Source")], []) == ["Run  Source", "───────────"]


def test_widest_column_shrinks_and_numbers_do_not() -> None:
    columns = [Column("Id"), Column("Count", is_number=True), Column("Source")]
    rows: list[Row] = [("i" * 30, "1,000,000,000,000", "s" * 20)]
    assert compute_widths(columns, rows, 1000) == [30, 17, 20]
    assert compute_widths(columns, rows, 61) == [20, 17, 20]
    assert compute_widths(columns, rows, 40) == [9, 17, 10]
    assert compute_widths(columns, rows, 1) == [1, 17, 2]
    assert sum("1,000,000,000,000" in line for line in draw(columns, rows, 1)) == 1


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("it refunds again", ["it refunds", "again"]),
        ("run 1, day_of_november.jsonl:4", ["run 1,", "day_of_nov", "ember.json", "l:4"]),
        ("abcdefghijkl mn", ["abcdefghij", "kl mn"]),
        ("支付支付支付", ["支付支付支", "付"]),
        ("ab支付支付支付", ["ab支付支付", "支付"]),
        ("e\u0301" * 11, ["e\u0301" * 10, "e\u0301"]),
        ("", [""]),
        ("           ", [""]),
    ],
)
def test_wrap_breaks_between_words_or_in_long_ones(text: str, lines: list[str]) -> None:
    assert wrap(text, 10) == lines


@given(TEXTS, st.integers(2, 20))
def test_wrap_keeps_text_and_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(measure_text(line) <= width for line in lines)


def test_join_parts_breaks_between_parts() -> None:
    """The separator at the end of a line fits as well; a part wider than a line is not cut."""
    parts = ["ab 1", "cd 2", "a part too wide", "ef"]
    assert join_parts(parts, ", ", 11) == ["ab 1, cd 2,", "a part too wide,", "ef"]
    assert join_parts(parts, ", ", 10) == ["ab 1,", "cd 2,", "a part too wide,", "ef"]
    assert join_parts(parts[:1], " · ", 2) == ["ab 1"]


def test_later_rows_wrap_and_are_not_held() -> None:
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        for taken in range(1, 10 * SAMPLE_ROWS):
            yield str(taken), "x" * 5
        yield "last", "y" * 8

    table = lay_out([Column("N", is_number=True), Column("Id")], rows(), 80, lambda styled: styled.text)
    lines = [next(table) for _ in range(3)]
    assert lines == [f"   N{GAP}Id   ", "─" * 11, f"   1{GAP}xxxxx"]
    assert taken == SAMPLE_ROWS
    *_, last, rest = table
    assert (last, rest) == (f"last{GAP}yyyyy", f"    {GAP}yyy  ")


def test_styles_are_painted_line_by_line() -> None:
    columns = [Column("Id")]
    rows = [(Styled("abcdefgh", "red"),)]
    lines = list(lay_out(columns, rows, 6, lambda styled: f"<{styled.style}:{styled.text}>"))
    assert lines == ["<bold:Id>    ", "──────", "<red:abcdef>", "<red:gh>    "]


LAYOUTS = ([[0], [1], [2], [3]], [[0, 1], [2, 3]], [[0, 1, 2, 3]])
FIELDS = [Column("Event", is_id=True), Column("Payment", is_id=True), Column("Why"), Column("From")]
FIELD_ROW: Row = (
    "e" * 27,
    "p" * 36,
    "it authorizes after the failure",
    Place("run 7, ", "/a/events-17.jsonl", ":15177"),
)


@pytest.mark.parametrize(
    ("width", "header", "row"),
    [
        (
            140,
            ["Event" + " " * 24 + "Payment"],
            ["e" * 27 + GAP + "p" * 36 + GAP + "it authorizes after the failure  run 7, /a/events-17.jsonl:15177"],
        ),
        (80, ["Event", "Payment"], ["e" * 27, "p" * 36]),
        (50, ["Event", "Payment", "Why", "From"], ["e" * 27, "p" * 36, "it authorizes after the failure"]),
    ],
)
def test_first_layout_that_keeps_ids_whole_is_taken(width: int, header: list[str], row: list[str]) -> None:
    lines = list(lay_out(FIELDS, [FIELD_ROW], width, lambda styled: styled.text, layouts=LAYOUTS))
    assert max(map(len, lines)) <= width
    assert [line.startswith(each) for line, each in zip(lines, header, strict=False)] == [True] * len(header)
    body = lines[next(number for number, line in enumerate(lines) if line.startswith("──")) + 1 :]
    assert [line.startswith(each) for line, each in zip(body, row, strict=False)] == [True] * len(row)


def test_prose_and_paths_shrink_before_ids() -> None:
    assert compute_widths(FIELDS, [FIELD_ROW], 200) == [27, 36, 31, 31]
    assert compute_widths(FIELDS, [FIELD_ROW], 121) == [27, 36, 22, 30]
    assert compute_widths(FIELDS, [FIELD_ROW], 105) == [27, 36, 13, 23]
    assert compute_widths(FIELDS, [FIELD_ROW], 90)[2:] == [21, 30]


def test_stacked_fields_without_text_take_no_line() -> None:
    rows: list[Row] = [("", "p1", "why", "here"), ("e2", "p2", "", "")]
    table = list(lay_out(FIELDS, rows, 50, lambda styled: styled.text, layouts=LAYOUTS[1:2]))
    assert [line.rstrip() for line in table[3:]] == ["p1       why", "         here", "e2", "p2"]
