"""Webhooks on their way from a PSP to a file: delayed, late, repeated, or retried after an outage.

Belongs here: everything between the moment that a webhook is about and its line in the input. The
shares and pauses are assumptions, like those of `payment_stories.py`.
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from payment_stories import HOUR, MINUTE, START

DELAY_SECONDS = 1.0
"""The usual delay on average, exponentially distributed."""
LATE_SECONDS = (5.0, HOUR)
REPEATED_SHARE = 0.02
"""Webhooks that arrive again, as late as late ones."""
OUTAGE = (START + 10 * HOUR, START + 12 * HOUR)
"""No webhook is accepted in these two hours of the day."""
RETRY_PAUSES = tuple(minutes * MINUTE for minutes in (2, 5, 10, 15, 30, 60, 120, 240, 480))
"""Pauses between the attempts to deliver a webhook. Each varies by a tenth."""


class Webhook(NamedTuple):
    """A message of a PSP, and the moment that it is about."""

    at: float
    body: dict[str, Any]


class Way(NamedTuple):
    """A way for webhooks to arrive."""

    name: str
    late_share: float = 0.0
    outage: bool = False
    are_retried: bool = True
    """After the outage. Otherwise its webhooks are lost, and a complete list follows."""
    newest_first: bool = False


WAYS = (
    Way("1 % late", late_share=0.01),
    Way("2 % late", late_share=0.02),
    Way("3 % late", late_share=0.03),
    Way("outage, retried", late_share=0.02, outage=True),
    Way("outage, backfilled", late_share=0.02, outage=True, are_retried=False),
    Way("newest first", newest_first=True),
)
"""The last is the order of a list from a PSP's interface."""


def deliver(webhooks: Iterable[Webhook], way: Way, seed: str) -> Iterator[list[str]]:
    """Yield the lines of each file to ingest, in the order of their arrival."""
    in_order = sorted(webhooks, key=lambda webhook: webhook.at)
    if way.newest_first:
        yield [json.dumps(webhook.body) for webhook in reversed(in_order)]
        return
    chance = random.Random(seed)
    arrivals = [
        (arrival, json.dumps(webhook.body)) for webhook in in_order for arrival in _arrivals(webhook.at, way, chance)
    ]
    yield [line for _, line in sorted(arrivals)]
    if not way.are_retried:
        yield [json.dumps(webhook.body) for webhook in in_order]


def _arrivals(at: float, way: Way, chance: random.Random) -> Iterator[float]:
    """Yield the moments at which a webhook arrives."""
    late = chance.uniform(*LATE_SECONDS) if chance.random() < way.late_share else 0.0
    repeated = [chance.uniform(*LATE_SECONDS)] if chance.random() < REPEATED_SHARE else []
    for delay in (late, *repeated):
        pauses = [pause * chance.uniform(0.9, 1.1) for pause in RETRY_PAUSES] if way.are_retried else []
        attempts = itertools.accumulate(pauses, initial=at + delay + chance.expovariate(1 / DELAY_SECONDS))
        accepted = (attempt for attempt in attempts if not (way.outage and OUTAGE[0] <= attempt < OUTAGE[1]))
        yield from itertools.islice(accepted, 1)
