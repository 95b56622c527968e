"""Many decisions on a real database: plans, chains, premises, reruns, and payments that move."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec
import pytest

from payproc.bulk import BulkResult, BulkSummary, Fate, Order, Resolver, plan
from payproc.corrections import Correction, correct
from payproc.db.connection import Database
from payproc.handlers import Recorder
from payproc.logic import EventType, Reason, Resolution, State
from payproc.review import ReviewDecision, resolve_review
from payproc.review_queue import QueueCounts, ReviewFilter, open_reviews
from payproc.verify import VerifySummary, verify_histories
from tests.support.events import input_events
from tests.support.postgres import NewDatabase, Sql, as_database, claim_events, contents, create_schema

APPLY = ReviewDecision(Resolution.APPLY, "it was paid", "alice")
DISMISS = ReviewDecision(Resolution.DISMISS, "a stale report", "bob")
ALL = ReviewFilter()
LEGAL = ReviewFilter(legal_now=True)

CHAIN = [("refund", "p1", "refund"), ("capture", "p1", "capture"), ("authorize", "p1", "authorize")]
"""A history in reverse: refund and capture wait."""


@pytest.fixture
def decide(database: Database) -> Iterator[Callable[..., BulkResult]]:
    """Records one decision of a batch, and checks the histories."""
    with closing(Resolver(database)) as resolver:

        def decide(event_id: str, decision: ReviewDecision = APPLY, version: int | None = None) -> BulkResult:
            result, _ = resolver.resolve(Order(event_id, decision, version))
            assert list(verify_histories(database, VerifySummary())) == []
            return result

        yield decide


def decide_all(database: Database, filters: ReviewFilter, decision: ReviewDecision) -> list[BulkResult]:
    """Plan and carry out, as the command does; both must tell the same."""
    planned = [result for result, _ in plan(database, filters, decision)]
    with closing(Resolver(database)) as resolver:
        orders = [Order(str(each.event_id), decision, filters=filters) for each in planned]
        results = [resolver.resolve(order)[0] for order in orders]
    assert results == planned
    assert list(verify_histories(database, VerifySummary())) == []
    return results


def outline(results: list[BulkResult]) -> list[tuple[str | None, str, str | None]]:
    return [(each.event_id, each.result.value, each.state_after and each.state_after.value) for each in results]


# ---- The queue -----------------------------------------------------------------------------------


def test_filters_pick_and_counts_cover_all(database: Database, recorder: Recorder, sql: Sql) -> None:
    recorder.handle(input_events(*CHAIN, ("dispute", "p2", "flag"), ("late", "p3", "capture")))
    run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{second}') RETURNING run_id")
    with closing(Recorder(database, run_id)) as second:
        second.handle(input_events(("again", "p3", "refund")))

    def pick(limit: int | None = None, counts: QueueCounts | None = None, **filters: object) -> set[str]:
        return {each.event_id for each in open_reviews(database, ReviewFilter(**filters), limit, counts)}  # type: ignore[arg-type]

    assert pick() == {"refund", "capture", "dispute", "late", "again"}
    assert pick(reason=Reason.FLAGGED) == {"dispute"}
    assert pick(type=EventType.CAPTURE) == {"capture", "late"}
    assert pick(state=State.AUTHORIZED) == {"refund", "capture"}
    assert pick(payment_id="p3") == {"late", "again"}
    assert pick(run_id=run_id) == {"again"}
    assert pick(legal_now=True) == {"capture"}
    assert pick(legal_now=True, state=State.CREATED) == set()
    counts = QueueCounts(Counter(), Counter())
    assert len(pick(limit=1, counts=counts)) == 1
    assert counts.waiting == {Reason.PREDECESSOR_MISSING: 4, Reason.FLAGGED: 1}
    assert counts.legal == {Reason.PREDECESSOR_MISSING: 1}
    assert {each.event_id: each.legal_now for each in open_reviews(database)}["capture"]


# ---- All that filters pick -----------------------------------------------------------------------


def test_chain_is_resolved_in_one_batch(database: Database, recorder: Recorder, sql: Sql) -> None:
    """The refund comes first in the history, so it is not legal yet.

    The one behind the capture is.
    """
    recorder.handle(input_events(*CHAIN[1:], ("refund", "p1", "refund")))
    results = decide_all(database, LEGAL, APPLY)
    assert outline(results) == [("capture", "resolved", "captured"), ("refund", "resolved", "refunded")]
    assert [each.position for each in results] == [4, 5]
    assert sql.rows("SELECT state, version FROM payproc.payments") == [("refunded", 5)]


def test_legal_refund_waits_for_its_capture(database: Database, recorder: Recorder) -> None:
    """The refund is before the capture in the history, and legal only after it."""
    recorder.handle(input_events(*CHAIN))
    results = decide_all(database, LEGAL, APPLY)
    assert outline(results) == [("capture", "resolved", "captured"), ("refund", "resolved", "refunded")]
    assert [each.legal for each in results] == [True, True]
    assert decide_all(database, LEGAL, APPLY) == []


def test_moves_against_the_table_are_counted(database: Database, recorder: Recorder) -> None:
    """In the order of the history the capture comes last, so the payment ends captured."""
    recorder.handle(input_events(*CHAIN))
    summary = BulkSummary()
    for settled in plan(database, ALL, APPLY):
        summary.add(*settled)
    assert (summary.resolved, summary.against_table) == (2, 2)


def test_payment_with_the_oldest_event_is_first(database: Database, recorder: Recorder) -> None:
    facts = [("e1", "p2", "capture"), ("e2", "p1", "capture"), ("e3", "p2", "refund")]
    for number, fact in enumerate(facts, 1):
        recorder.handle(input_events(fact, first_line=number))
    assert [each.event_id for each, _ in plan(database, ALL, DISMISS)] == ["e1", "e3", "e2"]
    assert [each.event_id for each, _ in plan(database, ALL, DISMISS, 2)] == ["e1", "e3"]


def test_flag_is_refused_or_dismissed(database: Database, recorder: Recorder) -> None:
    recorder.handle(input_events(("dispute", "p1", "flag"), ("e2", "p1", "capture")))
    assert outline(decide_all(database, ALL, APPLY)) == [("dispute", "refused", None), ("e2", "resolved", "captured")]
    assert decide_all(database, LEGAL, APPLY) == []
    assert outline(decide_all(database, ALL, DISMISS)) == [("dispute", "resolved", "captured")]


def test_plan_writes_nothing(database: Database, recorder: Recorder, sql: Sql) -> None:
    recorder.handle(input_events(*CHAIN))
    before = contents(sql)
    assert len(list(plan(database, ALL, APPLY))) == 2
    assert contents(sql) == before
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 0


def test_state_is_judged_at_the_moment(database: Database, recorder: Recorder) -> None:
    """The payment was captured after the plan, so the same filters do not pick its capture."""
    recorder.handle(input_events(*CHAIN[1:]))
    (planned,) = [result for result, _ in plan(database, LEGAL, APPLY)]
    recorder.handle(input_events(("second", "p1", "capture"), first_line=9))
    with closing(Resolver(database)) as resolver:
        result, _ = resolver.resolve(Order(str(planned.event_id), APPLY, filters=LEGAL))
    assert result.result is Fate.REFUSED
    assert result.error == (
        'payment "p1": is captured by now, so the filters do not pick its event "capture" any more; nothing was changed'
    )


# ---- Single decisions of a batch -----------------------------------------------------------------


def test_same_decision_again_is_already(recorder: Recorder, decide: Callable[..., BulkResult]) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    first = decide("e1")
    assert (first.result, first.state_before, first.state_after, first.position) == (
        Fate.RESOLVED, State.CREATED, State.CAPTURED, 2,
    )  # fmt: skip
    again = decide("e1")
    assert again == msgspec.structs.replace(first, result=Fate.ALREADY, legal=None)
    for other in (
        DISMISS,
        ReviewDecision(Resolution.APPLY, "it was paid", "bob"),
        ReviewDecision(Resolution.APPLY, "n", "alice"),
    ):
        refused = decide("e1", other)
        assert (refused.result, refused.payment_id) == (Fate.REFUSED, "p1")
        assert str(refused.error).startswith('event "e1": already resolved: applied by alice on ')


def test_undecidable_events_are_refused(recorder: Recorder, decide: Callable[..., BulkResult], sql: Sql) -> None:
    recorder.handle(input_events(("e1", "p1", "authorize"), ("dispute", "p1", "flag")))
    before = contents(sql)
    errors = [decide(event_id).error for event_id in ("nope", "p1", "e1", "dispute")]
    assert errors == [
        'event "nope": not found',
        'event "p1": not found; it is a payment_id; payproc review lists event_ids',
        'event "e1": has the outcome APPLY (transition), expected MANUAL_REVIEW; nothing was changed',
        'event "dispute": is a flag, which names no state to apply, expected --dismiss; nothing was changed',
    ]
    assert contents(sql) == before


def test_stale_premises_are_refused(recorder: Recorder, decide: Callable[..., BulkResult]) -> None:
    recorder.handle(input_events(*CHAIN))
    refused = decide("capture", APPLY, 2)
    assert refused.error == ('payment "p1": is authorized at version 3, expected version 2; nothing was changed')
    expecting = ReviewDecision(Resolution.APPLY, "n", "alice", State.CREATED)
    assert str(decide("capture", expecting, 2).error).endswith("expected created at version 2; nothing was changed")
    assert (
        decide("capture", ReviewDecision(Resolution.APPLY, "n", "alice", State.AUTHORIZED), 3).result is Fate.RESOLVED
    )


def test_own_move_keeps_the_premises(recorder: Recorder, decide: Callable[..., BulkResult]) -> None:
    """Both lines name the version shown by `review`; the first decision moves the payment."""
    recorder.handle(input_events(*CHAIN))
    expecting = ReviewDecision(Resolution.APPLY, "n", "alice", State.AUTHORIZED)
    assert decide("capture", expecting, 3).result is Fate.RESOLVED
    assert decide("refund", expecting, 3).result is Fate.RESOLVED


@pytest.mark.parametrize("other", ["another batch", "before the batch", "an event between"])
def test_other_move_breaks_the_premises(database: Database, recorder: Recorder, other: str) -> None:
    """The name is the same, as of a team."""
    recorder.handle(input_events(*CHAIN))
    first = ReviewDecision(Resolution.APPLY, "n", "alice")
    if other == "before the batch":
        resolve_review(database, "capture", first, lambda *_: True)
    with closing(Resolver(database)) as resolver, closing(Resolver(database)) as another:
        if other != "before the batch":
            (another if other == "another batch" else resolver).resolve(Order("capture", first, 3))
        if other == "an event between":
            recorder.handle(input_events(("again", "p1", "capture"), first_line=9))
        result, _ = resolver.resolve(Order("refund", ReviewDecision(Resolution.APPLY, "n", "alice"), 3))
    assert result.result is Fate.REFUSED
    assert str(result.error).startswith('payment "p1": is captured at version ')


def test_rerun_continues_an_interrupted_batch(database: Database, recorder: Recorder) -> None:
    """The first batch recorded only the capture; the second finds that, and goes on."""
    recorder.handle(input_events(*CHAIN))
    orders = [Order("capture", APPLY, 3), Order("refund", APPLY, 3)]
    fates = []
    for part in (orders[:1], orders):
        with closing(Resolver(database)) as resolver:
            fates.append([resolver.resolve(order)[0].result.value for order in part])
    assert fates == [["resolved"], ["already", "resolved"]]


def test_rerun_excuses_no_other_decision(database: Database, recorder: Recorder) -> None:
    """A rerun finds one of its decisions, and another payment that its author moved meanwhile."""
    recorder.handle(input_events(("e1", "p1", "flag"), *((event_id, "p2", kind) for event_id, _, kind in CHAIN)))
    for event_id, decision in (("e1", DISMISS), ("capture", APPLY)):
        resolve_review(database, event_id, decision, lambda *_: True)
    with closing(Resolver(database)) as resolver:
        fates = [resolver.resolve(order)[0].result for order in (Order("e1", DISMISS), Order("refund", DISMISS, 3))]
    assert fates == [Fate.ALREADY, Fate.REFUSED]


@pytest.mark.parametrize("is_person", [True, False], ids=["a correction", "an event"])
def test_plan_yields_to_a_person(database: Database, recorder: Recorder, is_person: bool) -> None:
    """Between question and answer, a colleague corrects the payment, or an ingest moves it."""
    recorder.handle(input_events(*CHAIN))
    order = Order("capture", APPLY, filters=ALL, planned_version=3)
    if is_person:
        correct(database, "p1", Correction(State.FAILED, "n", "bob"), lambda _: True)
    else:
        recorder.handle(input_events(("again", "p1", "authorize"), first_line=9))
    with closing(Resolver(database)) as resolver:
        result, _ = resolver.resolve(order)
    assert result.result is (Fate.REFUSED if is_person else Fate.RESOLVED)
    assert ("a person decided about it since the plan (entry 4)" in str(result.error)) == is_person


def test_plan_does_not_yield_to_itself(database: Database, recorder: Recorder) -> None:
    """An ingest moves the payment after the plan, so its first decision is behind the second's."""
    recorder.handle(input_events(*CHAIN))
    orders = [Order(event_id, APPLY, planned_version=version) for event_id, version in (("capture", 3), ("refund", 4))]
    recorder.handle(input_events(("again", "p1", "authorize"), first_line=9))
    with closing(Resolver(database)) as resolver:
        results = [resolver.resolve(order)[0] for order in orders]
    assert [(each.result, each.position) for each in results] == [(Fate.RESOLVED, 5), (Fate.RESOLVED, 6)]


def test_moved_payment_is_looked_at_again(database: Database, recorder: Recorder, sql: Sql) -> None:
    """An ingest records an event between the look and the decision."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    with ThreadPoolExecutor(1) as background, closing(Resolver(database)) as resolver:
        with closing(sql.connect()) as ingest:
            ingest.autocommit = False
            with ingest.cursor() as cursor:
                cursor.execute("UPDATE payproc.payments SET state = 'authorized', version = 2")
                cursor.execute(
                    "INSERT INTO payproc.events SELECT 'e2', payment_id, 2, 'authorize', 'APPLY', 'transition',"
                    " 'created', 'authorized', source, run_id, line, now(), payload FROM payproc.events"
                )
            deciding = background.submit(resolver.resolve, Order("e1", APPLY))
            sql.wait_for_blocked()
            ingest.commit()
        result, reason = deciding.result()
    claim_events(sql)
    assert (result.state_before, result.state_after, result.position) == (State.AUTHORIZED, State.CAPTURED, 3)
    assert reason is Reason.PREDECESSOR_MISSING
    assert list(verify_histories(database, VerifySummary())) == []


def test_one_of_two_batches_wins(database: Database, recorder: Recorder) -> None:
    recorder.handle(input_events(*((f"e{number}", f"p{number}", "capture") for number in range(30))))

    def take(decision: ReviewDecision) -> list[str]:
        with closing(Resolver(database)) as resolver:
            return [resolver.resolve(Order(f"e{number}", decision))[0].result.value for number in range(30)]

    with ThreadPoolExecutor(2) as people:
        fates = list(zip(*people.map(take, (APPLY, DISMISS)), strict=True))
    assert all(sorted(each) == ["refused", "resolved"] for each in fates)
    assert list(verify_histories(database, VerifySummary())) == []


def test_unstorable_note_is_refused(new_database: NewDatabase, sql_on: Callable[..., Sql]) -> None:
    """The database's encoding has no such character; the batch goes on."""
    url = new_database("template0", "LATIN1")
    database = as_database(url, "a database")
    with database.transaction() as cursor:
        create_schema(cursor)
    with closing(Recorder(database, 1)) as recorder, closing(Resolver(database)) as resolver:
        sql_on(url).rows("INSERT INTO payproc.runs (sources) VALUES ('{test}')")
        recorder.handle(input_events(("e1", "p1", "capture")))
        result, _ = resolver.resolve(Order("e1", ReviewDecision(Resolution.APPLY, "\u20ac", "alice")))
        assert result.result is Fate.REFUSED
        assert "has no equivalent in encoding" in str(result.error)
        assert resolver.resolve(Order("e1", APPLY))[0].result is Fate.RESOLVED
