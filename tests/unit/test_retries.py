"""The budget of retries: its limit, its pauses, and the end of endless ones.

Belongs here: anything about `payproc.handlers.RetryBudget`.
"""

from typing import Any, cast

import psycopg2
import psycopg2.errors
import pytest

from payproc.batch import EventResult, InputEvent
from payproc.errors import CannotFinish
from payproc.handlers import MAX_REPEATS, MAX_RETRIES, RetryBudget
from payproc.logic import TABLE, EventType, State
from payproc.schemas import PaymentEvent


class Connection:
    """A connection as far as the budget looks at it."""

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that the budget has slept, without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr("payproc.handlers.time.sleep", slept.append)
    return slept


def new(*event_ids: str, version: int = 0) -> list[EventResult]:
    """Return results to write, one for each event_id."""
    decision = TABLE[State.CREATED][EventType.AUTHORIZE]
    return [
        EventResult(InputEvent(PaymentEvent(each, "p1", EventType.AUTHORIZE), "{}", 0, 1), decision, version, True)
        for each in event_ids
    ]


def serialization_failure() -> psycopg2.Error:
    error = psycopg2.errors.SerializationFailure("no")
    error.__setstate__({"pgcode": "40001"})  # type: ignore[no-untyped-call]
    return error


def fail(budget: RetryBudget, error: psycopg2.Error | CannotFinish, *, closed: bool = False) -> None:
    budget.fail(error, cast("Any", Connection(closed=closed)))


def test_pauses_double(pauses: list[float]) -> None:
    budget = RetryBudget()
    for _ in range(MAX_RETRIES):
        fail(budget, serialization_failure())
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert 12 < sum(pauses) < 13
    with pytest.raises(psycopg2.errors.SerializationFailure):
        fail(budget, serialization_failure())


def test_progress_renews_the_budget(pauses: list[float]) -> None:
    budget = RetryBudget()
    for count in range(20, 0, -1):
        budget.begin(new(*(f"e{number}" for number in range(count))))
        fail(budget, serialization_failure())
    assert pauses == [0.05] * 20


def test_lasting_error_is_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(psycopg2.errors.DiskFull):
        fail(RetryBudget(), psycopg2.errors.DiskFull("no"))
    assert pauses == []


def test_dead_connection_is_retried(pauses: list[float]) -> None:
    fail(RetryBudget(), CannotFinish("cannot reach the database"), closed=True)
    assert pauses == [0.05]


def test_a_signal_shortens_the_budget(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payproc.handlers.interrupt.signal", 15)
    budget = RetryBudget()
    for _ in range(4):
        fail(budget, serialization_failure())
    with pytest.raises(psycopg2.errors.SerializationFailure):
        fail(budget, serialization_failure())
    assert len(pauses) == 4


def test_the_same_contest_again_and_again_is_refused() -> None:
    budget = RetryBudget()
    for _ in range(1 + MAX_REPEATS):
        budget.begin(new("e1", version=3))
    with pytest.raises(CannotFinish, match=r'^payment "p1": its stored version, 3, does not fit its stored history'):
        budget.begin(new("e1", version=3))


def test_another_version_is_progress() -> None:
    budget = RetryBudget()
    for version in range(10):
        budget.begin(new("e1", version=version))


def test_duplicates_alone_are_never_refused() -> None:
    budget = RetryBudget()
    for _ in range(10):
        budget.begin([])
