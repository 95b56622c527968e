"""The recipe for Stripe maps each kind of event as its guide says."""

import re
from typing import Any

from tests.support.psp import needs_jq, run_recipe, sample

pytestmark = needs_jq


def expected_lines(text: str) -> list[str]:
    """Return the lines of a text that omits the common part of Stripe's ids."""
    return re.sub(r"\b(evt|pi|ch)_", r"\1_3Qinvented", text).strip().splitlines()


SUMMARY = expected_lines("""
evt_Lamp2 pi_Lamp authorize transition
evt_Lamp4 pi_Lamp capture transition
evt_Lamp5 pi_Lamp refund transition
evt_Lamp4 pi_Lamp capture duplicate_event
evt_Bike3:authorize pi_Bike authorize transition
evt_Bike3:capture pi_Bike capture transition
evt_Bike4:flag pi_Bike flag flagged
evt_Bike5 pi_Bike refund transition
evt_Bike3:authorize pi_Bike authorize duplicate_event
evt_Bike3:capture pi_Bike capture duplicate_event
evt_Book2 pi_Book refund predecessor_missing
evt_Book1:authorize pi_Book authorize transition
evt_Book1:capture pi_Book capture transition
evt_Room1 pi_Room authorize transition
evt_Room2 pi_Room authorize already_in_state
evt_Room4 pi_Room fail transition
evt_Sofa2 pi_Sofa fail transition
evt_Desk2 pi_Desk fail transition
evt_Desk1 pi_Desk authorize authorize_after_failure
evt_Wine1 pi_Wine authorize transition
evt_Wine2 pi_Wine capture transition
evt_Coat1:authorize pi_Coat authorize transition
evt_Coat1:capture pi_Coat capture transition
evt_Coat3 pi_Coat refund transition
evt_Coat4:flag pi_Coat flag flagged
evt_Coat5:flag pi_Coat flag flagged
evt_Ring1:authorize pi_Ring authorize transition
evt_Ring1:capture pi_Ring capture transition
evt_Ring2:flag pi_Ring flag flagged
evt_Vase1 ch_Vase refund predecessor_missing
evt_Tent1:flag pi_Tent flag flagged
evt_Oven1:authorize pi_Oven authorize transition
evt_Oven1:capture pi_Oven capture transition
evt_Oven2 pi_Oven refund transition
evt_Oven3:flag pi_Oven flag flagged
evt_Sled4 pi_Sled capture predecessor_missing
evt_Mask1:authorize ch_Mask authorize transition
evt_Mask1:capture ch_Mask capture transition
evt_Mask2 ch_Mask refund transition
evt_Tray1 ch_Tray authorize transition
evt_Tray2 ch_Tray fail transition
evt_Ring3:flag pi_Ring flag flagged
evt_Ring4:flag pi_Ring flag flagged
evt_Wine3:flag pi_Wine flag flagged
""")
"""Decisions on the sample, in order."""


def event(kind: str, **content: Any) -> dict[str, Any]:
    """Return an event of one kind about an object."""
    about = {"id": "obj_1", **content}
    return {"id": "evt_1", "object": "event", "livemode": True, "type": kind, "data": {"object": about}}


Case = tuple[str, dict[str, Any], list[str]]
"""A kind, fields of its object, and the steps that it is mapped to."""


def assert_mapped(cases: list[Case], payment_id: str, **fields: Any) -> None:
    """Map an event for each case, all with the same fields in addition, and compare."""
    events = [
        {**event(kind, **content, **fields), "id": f"evt_{number}"} for number, (kind, content, _) in enumerate(cases)
    ]
    found = run_recipe("stripe", events)
    assert found.code == 0
    assert [(each["event_id"], each["payment_id"], each["type"], each["psp"]) for each in found.events] == [
        (f"evt_{number}" + (f":{step}" if step == "flag" or len(steps) > 1 else ""), payment_id, step, kind)
        for number, (kind, _, steps) in enumerate(cases)
        for step in steps
    ]


def test_sample_is_mapped() -> None:
    found = run_recipe("stripe", sample("stripe"))
    assert found.code == 0
    assert found.decide()[0] == SUMMARY
    assert found.report == [
        "stripe.jq: 44 events printed, 11 messages left out: 2 payment_intent.payment_failed, 1 charge.captured,"
        " 1 charge.refunded, 1 charge.succeeded, 1 customer.created, 1 payment_intent.created, 1 payout.paid,"
        " 1 refund.created",
        "stripe.jq: LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
        "stripe.jq: LEFT OUT 1: thin events, which only name their object: fetch it, or subscribe to snapshot events",
    ]


def test_charge_alone_is_a_payment() -> None:
    cases: list[Case] = [
        ("charge.succeeded", {"captured": True}, ["authorize", "capture"]),
        ("charge.succeeded", {"captured": False}, ["authorize"]),
        ("charge.succeeded", {}, ["flag"]),
        ("charge.captured", {"captured": True}, ["capture"]),
        ("charge.refunded", {"captured": True, "refunded": True}, ["refund"]),
        ("charge.refunded", {"captured": True, "refunded": False}, ["flag"]),
        ("charge.refunded", {"captured": False, "refunded": True}, ["fail"]),
        ("charge.expired", {"captured": False}, ["fail"]),
        ("charge.failed", {"captured": False}, ["fail"]),
        ("charge.pending", {"captured": False}, []),
        ("charge.unheard_of", {}, ["flag"]),
    ]
    assert_mapped(cases, "obj_1", object="charge", payment_intent=None)
    assert_mapped(cases, "obj_1")


def test_charge_of_a_payment_intent_repeats_it() -> None:
    cases: list[Case] = [
        ("charge.succeeded", {"captured": True}, []),
        ("charge.captured", {"captured": True}, []),
        ("charge.failed", {"captured": False}, []),
        ("charge.refunded", {"captured": True, "refunded": True}, ["refund"]),
        ("charge.refunded", {"captured": True, "refunded": False}, ["flag"]),
        ("charge.refunded", {"captured": True}, ["flag"]),
        ("charge.refunded", {"captured": False, "refunded": True}, []),
        ("charge.updated", {"status": "succeeded"}, []),
        ("charge.updated", {"status": "failed"}, ["flag"]),
        ("charge.failed", {"failure_balance_transaction": "txn_1"}, ["flag"]),
        ("charge.expired", {"captured": False}, ["flag"]),
        ("charge.unheard_of", {"captured": True}, ["flag"]),
    ]
    assert_mapped(cases, "pi_1", object="charge", payment_intent="pi_1")
    assert_mapped(cases, "pi_1", payment_intent={"id": "pi_1", "object": "payment_intent"})


def test_matters_for_a_person_are_flagged() -> None:
    disputes = ["created", "updated", "closed", "funds_withdrawn", "funds_reinstated", "unheard_of"]
    cases: list[Case] = [
        *[(f"charge.dispute.{each}", {}, ["flag"]) for each in disputes],
        ("refund.failed", {"status": "failed"}, ["flag"]),
        ("refund.failed", {"status": "succeeded"}, ["flag"]),
        ("refund.updated", {"status": "canceled"}, ["flag"]),
        ("refund.created", {"status": "requires_action"}, ["flag"]),
        ("refund.created", {}, ["flag"]),
        ("charge.refund.updated", {"status": "failed"}, ["flag"]),
        ("review.opened", {"reason": "rule"}, ["flag"]),
        ("radar.early_fraud_warning.created", {}, ["flag"]),
        ("unheard_of.created", {"amount": 5}, ["flag"]),
    ]
    assert_mapped(cases, "pi_1", charge="ch_1", payment_intent="pi_1")
    assert_mapped(cases, "ch_1", charge="ch_1", payment_intent=None)
    assert_mapped(cases, "pi_1", charge={"id": "ch_1", "object": "charge", "payment_intent": "pi_1"})


def test_odd_payment_intents_are_flagged() -> None:
    cases: list[Case] = [
        ("payment_intent.partially_funded", {}, ["flag"]),
        ("payment_intent.unheard_of", {}, ["flag"]),
        ("payment_intent.succeeded", {"capture_method": "unheard of"}, ["flag"]),
        ("payment_intent.succeeded", {}, ["flag"]),
        ("payment_intent.canceled", {"amount_received": 5}, ["flag"]),
        ("payment_intent.payment_failed", {"amount_received": 5}, ["flag"]),
        ("payment_intent.amount_capturable_updated", {"amount_capturable": 0}, ["flag"]),
        ("payment_intent.amount_capturable_updated", {"amount_received": 5}, ["authorize", "capture"]),
        ("payment_intent.canceled", {"amount_received": 0}, ["fail"]),
        ("payment_intent.canceled", {}, ["fail"]),
    ]
    assert_mapped(cases, "obj_1")


def test_failure_after_success_is_flagged() -> None:
    """A bank debit can fail later. An attempt that failed before it says nothing, even if late."""
    success = event("payment_intent.succeeded", capture_method="automatic") | {"created": 2}
    failures = [
        event("payment_intent.payment_failed") | {"id": "evt_2", "created": 1},
        event("payment_intent.payment_failed") | {"id": "evt_3", "created": 3},
        event("charge.failed", object="charge", payment_intent="obj_1") | {"id": "evt_4", "created": 4},
    ]
    found = run_recipe("stripe", [failures[0], success, *failures])
    assert [each["event_id"] for each in found.events[2:]] == ["evt_3:flag", "evt_4:flag"]
    assert found.report == ["stripe.jq: 4 events printed, 2 messages left out: 2 payment_intent.payment_failed"]


def test_kinds_without_a_step_are_counted() -> None:
    cases: list[Case] = [
        ("checkout.session.completed", {"amount_total": 5}, []),
        ("invoice.paid", {"amount_paid": 5, "charge": "ch_1"}, []),
        ("payment_intent.payment_failed", {}, []),
        ("payment_intent.processing", {}, []),
        ("refund.created", {"status": "succeeded"}, []),
        ("refund.updated", {"status": "pending"}, []),
    ]
    assert_mapped(cases, "pi_1", payment_intent="pi_1")
    reported = event("charge.refunded", object="charge", payment_intent="pi_1", captured=False)
    dump = [event(kind, **content, payment_intent="pi_1") for kind, content, _ in cases]
    found = run_recipe("stripe", [*dump, reported])
    cases.insert(0, ("charge.refunded", {}, []))
    counted = ", ".join(f"1 {kind}" for kind, _, _ in cases)
    assert found.report == [f"stripe.jq: 0 events printed, 7 messages left out: {counted}"]


def test_refund_that_no_charge_reports_is_named() -> None:
    """Without charge.refunded, the payment would look captured."""
    refunds = [event("refund.created", status="succeeded", payment_intent=f"pi_{number}") for number in (1, 2, 1)]
    charge = event("charge.refunded", object="charge", payment_intent="pi_1", captured=True, refunded=True)
    for dump in ([charge, *refunds], [*refunds, charge]):
        first, second = run_recipe("stripe", dump).report
        assert first == "stripe.jq: 1 events printed, 3 messages left out: 2 refund.created"
        assert second.startswith("stripe.jq: LEFT OUT 1: refund.created without charge.refunded, ")


def test_unknown_kind_without_payment_is_named() -> None:
    found = run_recipe("stripe", [event("unheard_of.created", amount=5), event("refund.failed", amount=5)])
    assert found.report[1:] == [
        "stripe.jq: LEFT OUT 1: refund.failed, which names no payment",
        "stripe.jq: LEFT OUT 1: unheard_of.created, which names no payment",
    ]


def test_thin_events_are_named() -> None:
    thin = {
        "id": "evt_1",
        "object": "v2.core.event",
        "type": "v1.payment_intent.succeeded",
        "livemode": True,
        "created": "2026-05-01T10:00:00.000Z",
        "related_object": {"id": "pi_1", "type": "payment_intent", "url": "/v1/payment_intents/pi_1"},
    }
    assert run_recipe("stripe", [thin, {**thin, "type": "v1.charge.refunded"}]).report == [
        "stripe.jq: 0 events printed, 2 messages left out",
        "stripe.jq: LEFT OUT 2: thin events, which only name their object: fetch it, or subscribe to snapshot events",
    ]


def test_fields_of_the_psp_are_kept() -> None:
    refund = event("refund.failed", object="refund", amount=5, currency="eur", status="failed", payment_intent="pi_1")
    (kept,) = run_recipe("stripe", [{**refund, "created": 1795514500, "account": "acct_1", "request": None}]).events
    assert kept == {
        "event_id": "evt_1:flag",
        "payment_id": "pi_1",
        "type": "flag",
        "psp": "refund.failed",
        "created": 1795514500,
        "livemode": True,
        "account": "acct_1",
        "object": "obj_1",
        "amount": 5,
        "currency": "eur",
        "status": "failed",
    }
