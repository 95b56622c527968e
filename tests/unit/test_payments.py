"""One payment in memory: whether only another correction can mend it."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from payproc.logic import EventType, Outcome, Reason, Resolution, State
from payproc.payments import Conflict, CorrectionEntry, EventEntry, HistoryEntry, Payment, RecordedFact, ResolutionEntry

NOON = datetime(2026, 11, 18, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
RAW = msgspec.Raw(b"{}")


def reject(position: int, at: datetime) -> EventEntry:
    """Return a rejected event."""
    state, reason = State.FAILED, Reason.PAYMENT_FAILED
    return EventEntry(position, "e", EventType.CAPTURE, Outcome.REJECT, reason, state, state, at, 1, "f", 1, RAW)


def dismiss(position: int, at: datetime) -> ResolutionEntry:
    """Return a dismissed event."""
    return ResolutionEntry(position, "e", Resolution.DISMISS, State.FAILED, State.FAILED, at, "n", "alice")


def correct(position: int, at: datetime) -> CorrectionEntry:
    """Return a correction."""
    return CorrectionEntry(position, State.FAILED, State.CAPTURED, at, "n", "alice")


def make_payment(*history: HistoryEntry, conflicts: tuple[Conflict, ...] = ()) -> Payment:
    """Return a payment with this history."""
    return Payment("p", State.CAPTURED, len(history), list(history), [], list(conflicts), [])


@pytest.mark.parametrize("shift", [-HOUR, 0 * HOUR, HOUR])
@pytest.mark.parametrize("make_final", [reject, dismiss])
def test_is_correctable_goes_by_position(
    make_final: Callable[[int, datetime], EventEntry | ResolutionEntry], shift: timedelta
) -> None:
    """The clock may go back between two entries."""
    assert make_payment(correct(1, NOON), make_final(2, NOON + shift)).is_correctable
    assert not make_payment(make_final(1, NOON + shift), correct(2, NOON)).is_correctable


@pytest.mark.parametrize("shift", [-HOUR, HOUR])
def test_is_correctable_dates_conflicts(shift: timedelta) -> None:
    """A conflict has no position."""
    recorded = RecordedFact("other", EventType.CAPTURE)
    conflict = Conflict("e", "p", EventType.CAPTURE, recorded, NOON + shift, 1, "f", 1, RAW)
    assert make_payment(correct(1, NOON), conflicts=(conflict,)).is_correctable is (shift > 0 * HOUR)
