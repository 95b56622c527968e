"""Messy input made from a seed, with the decisions and records that the model expects of it."""

import json
import random
from typing import Any, NamedTuple

from tests.support.model import Fact, Line, Model, Source
from tests.support.postgres import Contents

_LEGAL_HISTORIES = (
    ("authorize", "capture", "refund"),
    ("authorize", "capture", "refund"),
    ("authorize", "capture"),
    ("authorize",),
    ("fail",),
    ("authorize", "fail"),
)
_NO_EVENTS = (b"not json", b'{"event_id": 1}', b"[]", b"", b" \t", b'{"event_id":"e","payment_id":"p","type":"void"}')


def good_line(fact: Fact, **more: object) -> Line:
    """Return a line with these three fields, and more."""
    return Line(json.dumps({**fact._asdict(), **more}).encode(), fact)


def messy_day(seed: int, count: int) -> list[Line]:
    """Return about `count` lines: shuffled histories, redeliveries, reused ids, malformed lines.

    The seed decides event_ids but not payment_ids, so two days collide on the states of their
    payments.
    """
    chance = random.Random(seed)
    good: list[Line] = []
    while len(good) < count:
        payment = f"pay_{chance.randrange(count // 3 + 1)}"
        for event_type in chance.choice(_LEGAL_HISTORIES):
            fact = Fact(f"evt_{seed}_{len(good)}", payment, event_type)
            good.append(good_line(fact, amount=chance.randrange(10_000)))
    good += [_again(chance.choice(good), chance, count) for _ in range(count // 10)]
    for start in range(0, len(good), 20):  # out of order within a short distance
        part = good[start : start + 20]
        chance.shuffle(part)
        good[start : start + 20] = part
    lines = list(good)
    for _ in range(count // 50):
        lines.insert(chance.randrange(len(lines)), Line(chance.choice(_NO_EVENTS), None))
    return lines


def _again(line: Line, chance: random.Random, payments: int) -> Line:
    """Return the same event_id again: redelivered, or reused for another event."""
    assert line.fact is not None
    attempt = {**json.loads(line.raw), "attempt": chance.randrange(2, 9)}
    changed = chance.choice(({}, {}, {"payment_id": f"pay_{chance.randrange(payments)}"}, {"type": "refund"}))
    return good_line(Fact(**{**line.fact._asdict(), **changed}), attempt=attempt["attempt"])


class Day(NamedTuple):
    """Lines, and the result of one uninterrupted run over them as their only source."""

    lines: list[Line]
    decisions: list[dict[str, Any]]
    """Decisions as `reports.read_decisions` returns them."""
    contents: Contents

    @property
    def raw(self) -> list[bytes]:
        """The lines as bytes, without line feeds."""
        return [line.raw for line in self.lines]

    @property
    def text(self) -> bytes:
        """The whole input."""
        return b"".join(line.raw + b"\n" for line in self.lines)


def expected_day(lines: list[Line]) -> Day:
    """Return lines with the model's results for them."""
    model = Model()
    decisions = model.ingest([Source("", lines)])
    for decision in decisions:
        del decision["source"]
    return Day(lines, decisions, model.contents())
