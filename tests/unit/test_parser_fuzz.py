"""Damaged lines, on each of which the parser and the reference parser must agree.

This file holds random lines only. Lines chosen for a reason are in test_schemas.py. The seed is in
the test's name.
"""

import re
from random import Random

import pytest

from payproc.explain import Malformed
from payproc.schemas import parse_line, parse_lines
from tests.support.mutate import good_neighbour, mutated
from tests.support.reference_parser import read_event
from tests.support.tally import count

slow = pytest.mark.slow

KINDS_OF_ERROR = (
    *("not JSON: ", "not UTF-8: ", "nested ", "the number ", "null, expected", "an array, expected"),
    *("event_id: missing", "event_id: given 2 times", "event_id: empty", "event_id: the number", "event_id: 256 char"),
    *('"x": ', '"\\u0000": ', '"\\ud800": ', "payment_id: null", 'payment_id: "', "type: unknown "),
)
"""Beginnings of messages that a good mix of damages brings out."""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(1, 8))])
def test_damaged_line_parses_as_the_reference_does(seed: int) -> None:
    """A malformed line gets a message in printable ASCII.

    An event keeps its line as its payload, without a byte order mark.
    """
    lines = 10_000 if seed == 0 else 150_000
    accepted = 0
    errors = set()
    for line in mutated(seed, lines):
        parsed = parse_line(line)
        event = read_event(line)
        if isinstance(parsed, Malformed):
            assert event is None, f"refused: {line!r}: {parsed.error}"
            assert parsed.error, line
            assert parsed.error.isascii(), line
            assert parsed.error.isprintable(), line
            errors.add(parsed.error)
        else:
            found, text = parsed
            assert (found.event_id, found.payment_id, found.type.value) == event, f"read differently: {line!r}"
            assert text.encode() == re.sub(rb"^(?:\xef\xbb\xbf)+", b"", line)
            accepted += 1
    assert accepted > lines // 10, "the damages are too many"
    unseen = [kind for kind in KINDS_OF_ERROR if not any(error.startswith(kind) for error in errors)]
    assert unseen == [], "the damages are too much alike"
    count("damaged lines parsed", lines)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(1, 5))])
def test_neighbours_change_no_result(seed: int) -> None:
    """Ordinary lines are parsed many at a time.

    One or two damaged ones among them must change nothing.
    """
    lines = 1_000 if seed == 0 else 40_000
    chance = Random(seed)
    damaged = [line for line in mutated(seed, lines) if b"\n" not in line]
    for first, second in zip(damaged[::2], damaged[1::2], strict=False):
        group = [good_neighbour(str(number)) for number in range(chance.randrange(1, 60))]
        where = chance.randrange(len(group))
        group[where : where + 1] = [first, second] if chance.random() < 0.5 else [first]
        group.insert(chance.randrange(len(group)), second)
        assert parse_lines(group) == [parse_line(line) for line in group]
    count("damaged lines parsed among others", lines)
