"""Lines under one event_id: the same content, or other content."""

import json

import pytest

from payproc.content import MAX_COMPARED_BYTES, digest, has_same_content

LINE = '{"event_id": "e", "amount": 10, "more": {"a": [1, "1", true, null], "b": {}}}'


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        f" {LINE} \r",
        LINE.replace(" ", ""),
        json.dumps(dict(reversed(json.loads(LINE).items()))),
        LINE.replace('"1"', '"\\u0031"'),
    ],
)
def test_same_content_is_recognized(line: str) -> None:
    assert has_same_content(line, LINE)
    assert has_same_content(LINE, line)


@pytest.mark.parametrize(
    ("found", "other"),
    [
        ("10", "90"),
        ("10", "10.0"),  # numbers are never interpreted
        ("10", "1e1"),
        ("10", '"10"'),
        ("[1,", '["1",'),
        ("true", "1"),
        ("null", "false"),
        ('[1, "1"', '["1", 1'),
        ("{}", "[]"),
        ('"b"', '"c"'),
        ('"amount": 10, ', ""),
        ('"1"', '"1 "'),
    ],
)
def test_other_content_is_recognized(found: str, other: str) -> None:
    line = LINE.replace(found, other)
    assert line != LINE
    assert not has_same_content(line, LINE)
    assert not has_same_content(LINE, line)


def test_numbers_of_any_size_are_compared() -> None:
    """Python would refuse the digits, and round the others."""
    huge = "9" * 5_000
    assert has_same_content(f'{{"x": {huge}}}', f'{{"x":{huge}}}')
    assert not has_same_content('{"x": 0.1000000000000000055}', '{"x": 0.1}')


@pytest.mark.parametrize(("size", "same"), [(MAX_COMPARED_BYTES, True), (MAX_COMPARED_BYTES + 1, False)])
def test_large_record_is_compared_by_text(size: int, same: bool) -> None:
    """Bytes count, because a server counts them. A record within a batch is not looked up."""
    recorded = f'{{"x":"é{"y" * (size - 10)}"}}'
    assert len(recorded.encode()) == size
    assert has_same_content(recorded, recorded)
    assert has_same_content(f" {recorded}", recorded) == same


def test_digest_stands_for_the_text() -> None:
    """The record of a large line is looked up as a digest."""
    assert has_same_content(LINE, digest(LINE))
    assert not has_same_content(f"{LINE} ", digest(LINE))
