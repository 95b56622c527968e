"""The events that every contender gets: fresh histories, and a contested mix.

The content of the lines belongs here. The same seed gives the same lines.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HISTORIES = (("authorize",), ("authorize", "capture"), ("authorize", "capture"), ("authorize", "capture", "refund"))
"""Histories of a payment: one to three legal events, two on average."""

REPORTS = ("authorize", "authorize", "capture", "capture", "refund", "refund", "fail", "fail")
"""Events of a contested payment: each twice, under two ids, and contradicting each other."""

PAYMENTS_IN_PLAY = 100
"""Contested payments in a group. Their events are shuffled together, so two processes meet."""

REDELIVERED_SHARE = 0.25
REUSED_SHARE = 0.05


class Line(NamedTuple):
    """One input line and its fields."""

    event_id: str
    payment_id: str
    type: str
    text: str


def fresh(count: int, seed: int, line_bytes: int = 0) -> Iterator[Line]:
    """Legal histories with random ids, each in order and one after the other; about 180 bytes a
    line, or `line_bytes` if that is more."""
    chance = random.Random(f"fresh {seed}")
    made = 0
    while made < count:
        payment_id = _id("pay", chance)
        for event_type in chance.choice(HISTORIES)[: count - made]:
            made += 1
            yield _line(_id("evt", chance), payment_id, event_type, chance, line_bytes=line_bytes)


def contested(count: int, seed: int) -> list[Line]:
    """Few payments and much to say about each, in no order: contradictions, redeliveries, reused
    ids.

    A quarter of the lines are redeliveries of another, a twentieth reuse the id of another, mostly
    for another payment. All lines about a hundred payments are shuffled together.
    """
    chance = random.Random(f"contested {seed}")
    lines: list[Line] = []
    while len(lines) < count:
        payments = [_id("pay", chance) for _ in range(PAYMENTS_IN_PLAY)]
        group = [
            _line(_id("evt", chance), payment_id, event_type, chance)
            for payment_id in payments
            for event_type in REPORTS
        ]
        originals = list(group)
        group += [_line(*line[:3], chance, attempt=2) for line in chance.sample(originals, _share(REDELIVERED_SHARE))]
        group += [
            _line(line.event_id, chance.choice(payments), line.type, chance)
            for line in chance.sample(originals, _share(REUSED_SHARE))
        ]
        chance.shuffle(group)
        lines += group
    return lines[:count]


def _share(share: float) -> int:
    """Return the number of lines to add to a group, so that they are this share of the whole."""
    return round(len(REPORTS) * PAYMENTS_IN_PLAY * share / (1 - REDELIVERED_SHARE - REUSED_SHARE))


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write a file of JSON Lines."""
    with path.open("w") as file:
        file.writelines(f"{line.text}\n" for line in lines)


def _id(kind: str, chance: random.Random) -> str:
    return f"{kind}_{chance.getrandbits(64):016x}"


def _line(
    event_id: str, payment_id: str, event_type: str, chance: random.Random, attempt: int = 1, line_bytes: int = 0
) -> Line:
    content = {
        "event_id": event_id,
        "payment_id": payment_id,
        "type": event_type,
        "amount": chance.randrange(100_000),
        "currency": "EUR",
        "created": "2026-11-20T09:00:00Z",
        "attempt": attempt,
    }
    missing = line_bytes - len(json.dumps(content | {"more": ""}))
    if missing > 0:
        content["more"] = f"{chance.getrandbits(4 * missing):0{missing}x}"
    return Line(event_id, payment_id, event_type, json.dumps(content))
