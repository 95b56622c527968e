"""Payments and what happens to them, at random: the assumptions of `run.py --reviews`.

Each rate and each gap is a constant here. A story is about the payment itself. The webhooks about
it are in a module for each PSP, and the ways they arrive in `deliveries.py`.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

START = 1_795_600_000.0
"""Seconds since 1970. Payments begin during the day that follows."""

DECLINED_SHARE = 0.13
"""Payments whose first attempt is declined."""
GIVEN_UP_SHARE = 0.2
"""Declined payments without a second attempt."""
CANCELLED_SHARE = 0.045
"""Payments cancelled before their capture."""
REFUNDED_SHARE = 0.06
"""Captured payments refunded at once and in full."""
PARTLY_REFUNDED_SHARE = 0.04
"""Captured payments with one to three refunds of a part."""
REST_REFUNDED_SHARE = 0.2
"""Payments with several refunds of a part whose last one returns the rest."""
DISPUTED_SHARE = 0.003
"""Captured payments that are disputed; the dispute is lost."""
REFUND_FAILS_SHARE = 0.01
"""Refunds that fail after the PSP has reported them."""
CAPTURE_FAILS_SHARE = 0.001
"""Captures that fail after the PSP has reported them. Only Adyen has these."""
CORRECTED_SHARE = 0.0005
"""Payments refused and then authorized under one reference. Only Adyen has these."""

CAPTURE_GAP = (5.0, DAY)
"""Seconds from authorization to capture or cancellation. Gaps have a uniform logarithm."""
REFUND_GAP = (MINUTE, DAY)
"""Seconds from capture to a refund, and from one refund to the next."""
FAILURE_GAP = (HOUR, DAY)
"""Seconds until a refund or a capture fails, or a payment is disputed."""


class Refund(NamedTuple):
    """Money on its way back. A failed refund comes home again."""

    at: float
    amount: int
    fails_at: float | None


class Story(NamedTuple):
    """One payment. `None` is a step that it never takes."""

    key: str
    begins_at: float
    amount: int
    is_manual: bool
    is_declined: bool
    is_corrected: bool
    authorized_at: float | None
    cancelled_at: float | None
    captured_at: float | None
    capture_fails_at: float | None
    refunds: tuple[Refund, ...]
    disputed_at: float | None

    @property
    def state(self) -> str:
        """The true state at the end."""
        if self.cancelled_at is not None:
            return "failed"
        if self.authorized_at is None:
            return "created"
        if self.captured_at is None or self.capture_fails_at is not None:
            return "authorized"
        return "refunded" if self.refunded_at(float("inf")) == self.amount else "captured"

    def refunded_at(self, moment: float) -> int:
        """Return the amount that is refunded at a moment, without the refunds that have failed."""
        return sum(
            refund.amount
            for refund in self.refunds
            if refund.at <= moment and (refund.fails_at is None or refund.fails_at > moment)
        )


def tell(count: int, manual_share: float, seed: str, *, captures_can_fail: bool = False) -> Iterator[Story]:
    """Yield the stories of some payments, in no order of time."""
    chance = random.Random(seed)
    return (_tell_one(chance, manual_share, captures_can_fail) for _ in range(count))


def _tell_one(chance: random.Random, manual_share: float, captures_can_fail: bool) -> Story:
    begins_at = START + chance.uniform(0, DAY)
    amount = chance.randrange(500, 50_000)
    is_manual = chance.random() < manual_share
    is_declined = chance.random() < DECLINED_SHARE
    gives_up = is_declined and chance.random() < GIVEN_UP_SHARE
    is_cancelled = not gives_up and chance.random() < CANCELLED_SHARE
    authorized_at = None if gives_up or (is_cancelled and not is_manual) else begins_at + chance.uniform(20, MINUTE)
    decided_at = (authorized_at or begins_at) + (_gap(chance, CAPTURE_GAP) if is_manual or is_cancelled else 0)
    captured_at = None if authorized_at is None or is_cancelled else decided_at
    capture_fails_at, disputed_at = None, None
    refunds: tuple[Refund, ...] = ()
    if captured_at is not None:
        if captures_can_fail and chance.random() < CAPTURE_FAILS_SHARE:
            capture_fails_at = captured_at + _gap(chance, FAILURE_GAP)
        elif chance.random() < DISPUTED_SHARE:
            disputed_at = captured_at + _gap(chance, FAILURE_GAP)
        else:
            refunds = tuple(_tell_refunds(chance, captured_at, amount))
    return Story(
        key=f"{chance.getrandbits(64):016X}",
        begins_at=begins_at,
        amount=amount,
        is_manual=is_manual,
        is_declined=is_declined,
        is_corrected=captured_at is not None and not is_declined and chance.random() < CORRECTED_SHARE,
        authorized_at=authorized_at,
        cancelled_at=decided_at if is_cancelled else None,
        captured_at=captured_at,
        capture_fails_at=capture_fails_at,
        refunds=refunds,
        disputed_at=disputed_at,
    )


def _tell_refunds(chance: random.Random, captured_at: float, amount: int) -> Iterator[Refund]:
    """Yield no refund, one of all, or one to three of a part."""
    kind = chance.random()
    if kind >= REFUNDED_SHARE + PARTLY_REFUNDED_SHARE:
        return
    parts = [amount]
    if kind >= REFUNDED_SHARE:
        parts = [chance.randrange(amount // 10, amount // 4) for _ in range(chance.randint(1, 3))]
        if len(parts) > 1 and chance.random() < REST_REFUNDED_SHARE:
            parts[-1] = amount - sum(parts[:-1])
    at = captured_at
    for part in parts:
        at += _gap(chance, REFUND_GAP)
        fails = chance.random() < REFUND_FAILS_SHARE
        yield Refund(at, part, at + _gap(chance, FAILURE_GAP) if fails else None)


def _gap(chance: random.Random, bounds: tuple[float, float]) -> float:
    shortest, longest = bounds
    return float(shortest * (longest / shortest) ** chance.random())
