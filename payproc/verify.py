"""The fold: every history again from the start, compared with what is stored.

What belongs here: reading everything in payment order, and saying where it does not add up. The books are right if each
entry starts where the one before it ended, positions have no gaps, only APPLY and people move a payment, and the stored
state and version are what the history gives. Apart from that, a recorded decision may differ from what today's table
decides: then the rules have changed, and the books are still consistent.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from payproc.db.connection import Database
from payproc.logic import STATE_NAMED_BY, TABLE, EventType, Outcome, Resolution, State

PROGRESS_ENTRIES = 5_000
"""How many entries are read between two reports of progress."""

# Each payment's entries in order, then its own row: the one without a position, which sorts last.
_HISTORIES = """
    SELECT payment_id, position, type, outcome::text, reason::text, state_before, state_after
    FROM payproc.events
    UNION ALL
    SELECT resolutions.payment_id, resolutions.position, events.type, resolution::text,
           CASE WHEN events.outcome::text = 'MANUAL_REVIEW' AND events.payment_id = resolutions.payment_id
                     AND events.position < resolutions.position THEN 'resolution' ELSE 'nothing to resolve' END,
           resolutions.state_before, resolutions.state_after
    FROM payproc.resolutions LEFT JOIN payproc.events USING (event_id)
    UNION ALL
    SELECT payment_id, NULL, NULL, NULL, version::text, NULL, state FROM payproc.payments
    ORDER BY 1, 2
"""

_COUNT = "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.resolutions)"

Row = tuple[str, int | None, str, str, str, str, str]
"""Payment, position, type, outcome or resolution, reason, state before, state after; a payment's own row has its
version for a reason."""


class Problem(str, Enum):
    """What can be found. All but the last mean that the books are wrong."""

    GAP = "gap"
    BROKEN_CHAIN = "broken_chain"
    ILLEGAL_MOVE = "illegal_move"
    WRONG_STATE = "wrong_state"
    WRONG_VERSION = "wrong_version"
    NO_PAYMENT = "no_payment"
    NO_HISTORY = "no_history"
    RULES_CHANGED = "rules_changed"


class Finding(msgspec.Struct, frozen=True):
    """One thing that does not add up. `position` is the entry's, where it is about one."""

    payment_id: str
    problem: Problem
    position: int | None
    found: str
    expected: str


class VerifySummary(msgspec.Struct):
    """What was read, and how many findings of each kind there were."""

    payments: int = 0
    entries: int = 0
    problems: dict[Problem, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Problem, 0))

    @property
    def wrong(self) -> int:
        """Findings that mean that the books are wrong."""
        return sum(count for problem, count in self.problems.items() if problem is not Problem.RULES_CHANGED)


def verify(
    database: Database, totals: VerifySummary, on_progress: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Fold every history as of one moment; give what does not add up, counting in `totals`. Memory stays flat.

    Raises CannotFinish if the database cannot be read.
    """
    with database.snapshot() as connection:
        rows = _counted(Database.stream(connection, _HISTORIES), totals, on_progress)
        for payment_id, history in groupby(rows, key=itemgetter(0)):
            for finding in check(payment_id, history):
                totals.problems[finding.problem] += 1
                yield finding


def count_entries(database: Database) -> int:
    """How many entries there are to read."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT)
        ((count,),) = cursor.fetchall()
    return int(count)


def _counted(
    rows: Iterable[tuple[Any, ...]], totals: VerifySummary, on_progress: Callable[[int], None]
) -> Iterator[Row]:
    for row in rows:
        if row[1] is None:
            totals.payments += 1
        else:
            totals.entries += 1
            if totals.entries % PROGRESS_ENTRIES == 0:
                on_progress(totals.entries)
        yield row


def check(payment_id: str, history: Iterable[Row]) -> Iterator[Finding]:
    """Fold one payment's history and compare the end with the payment's own row, which comes last."""
    state, version = State.CREATED.value, 0
    for _, position, event_type, outcome, reason, before, after in history:
        if position is None:
            if not version:
                yield Finding(payment_id, Problem.NO_HISTORY, None, f"{after} and no history", "at least one entry")
                return
            if after != state:
                yield Finding(payment_id, Problem.WRONG_STATE, None, after, state)
            if reason != str(version):
                yield Finding(payment_id, Problem.WRONG_VERSION, None, reason, str(version))
            return
        version += 1
        if position != version:
            yield Finding(payment_id, Problem.GAP, position, str(position), str(version))
            version = position
        if before != state:
            yield Finding(payment_id, Problem.BROKEN_CHAIN, position, before, state)
        if (outcome, reason, before, after) != DECIDED.get((event_type, before)):
            problem, expected = _judge(event_type, outcome, reason, before, after)
            if problem is not None:
                yield Finding(payment_id, problem, position, f"{outcome} {reason}, {before} to {after}", expected)
        state = after
    yield Finding(payment_id, Problem.NO_PAYMENT, None, f"{version} entries and no payment", state)


DECIDED = {
    (event_type.value, state.value): (
        decision.outcome.value, decision.reason.value, decision.state_before.value, decision.state_after.value,
    )
    for state, row in TABLE.items()
    for event_type, decision in row.items()
}  # fmt: skip
"""The decision table in plain strings: comparing a million of those is several seconds faster."""


def _judge(event_type: str, outcome: str, reason: str, before: str, after: str) -> tuple[Problem | None, str]:
    """What an entry that is not as the table decides amounts to, and what was expected of it."""
    if reason == "nothing to resolve":
        return Problem.ILLEGAL_MOVE, "an earlier event of this payment in MANUAL_REVIEW"
    named = STATE_NAMED_BY.get(EventType(event_type), State(before)).value  # a flag names none
    if reason == "resolution":
        if outcome == Resolution.APPLY and event_type == EventType.FLAG:
            return Problem.ILLEGAL_MOVE, f"a flag {Resolution.DISMISS.value}ed"
        expected = named if outcome == "apply" else before
        return (None if after == expected else Problem.ILLEGAL_MOVE), f"{before} to {expected}"
    if after != (named if outcome == Outcome.APPLY else before):
        return Problem.ILLEGAL_MOVE, f"{before} to {named if outcome == Outcome.APPLY else before}"
    decided = TABLE[State(before)][EventType(event_type)]
    return Problem.RULES_CHANGED, (
        f"{decided.outcome.value} {decided.reason.value}, {before} to {decided.state_after.value}"
    )
