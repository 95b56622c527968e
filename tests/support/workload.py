"""Input as it arrives, made from a seed, and what each line of it says."""

import json
import random

from tests.support.model import Fact, Line

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
    """A line that says this, and more."""
    return Line(json.dumps({**fact._asdict(), **more}).encode(), fact)


def messy_day(seed: int, count: int) -> list[Line]:
    """About `count` lines: histories in and out of order, redeliveries, reused ids, contradictions, malformed lines.

    Payments are the same whatever the seed, event_ids are not: two days collide on the payments' states.
    """
    chance = random.Random(seed)
    good: list[Line] = []
    while len(good) < count:
        payment = f"pay_{chance.randrange(count // 3 + 1)}"
        for event_type in chance.choice(_LEGAL_HISTORIES):
            fact = Fact(f"evt_{seed}_{len(good)}", payment, event_type)
            good.append(good_line(fact, amount=chance.randrange(10_000)))
    good += [_again(chance.choice(good), chance, count) for _ in range(count // 10)]
    for start in range(0, len(good), 20):  # out of order, but not by far
        part = good[start : start + 20]
        chance.shuffle(part)
        good[start : start + 20] = part
    lines = list(good)
    for _ in range(count // 50):
        lines.insert(chance.randrange(len(lines)), Line(chance.choice(_NO_EVENTS), None))
    return lines


def _again(line: Line, chance: random.Random, payments: int) -> Line:
    """The same event_id again: delivered once more, or used for something else."""
    assert line.fact is not None
    attempt = {**json.loads(line.raw), "attempt": chance.randrange(2, 9)}
    changed = chance.choice(({}, {}, {"payment_id": f"pay_{chance.randrange(payments)}"}, {"type": "refund"}))
    return good_line(Fact(**{**line.fact._asdict(), **changed}), attempt=attempt["attempt"])
