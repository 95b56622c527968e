"""The filters for Stripe and Adyen map each kind of event as their guide says."""

import json
import re

from tests.support.command import Payproc
from tests.support.documents import FILTERS, read
from tests.support.postgres import Sql, contents
from tests.support.psp import (
    ADYEN,
    ADYEN_SUMMARY,
    STRIPE,
    STRIPE_SUMMARY,
    each_psp,
    kind,
    needs_jq,
    run_filter,
)

pytestmark = needs_jq

STRIPE_STATES = {
    "Lamp": "refunded",
    "Bike": "refunded",
    "Book": "captured",
    "Room": "failed",
    "Sofa": "failed",
    "Desk": "failed",
    "Wine": "captured",
    "Coat": "refunded",
    "Ring": "captured",
    "Oven": "refunded",
}

ADYEN_STATES = {
    "LAMPAUTH00000001": "refunded",
    "BIKEAUTH00000001": "failed",
    "BIKEAUTH00000002": "refunded",
    "ROOMAUTH00000001": "failed",
    "SOFAAUTH00000001": "failed",
    "DESKAUTH00000001": "failed",
    "BOOKAUTH00000001": "authorized",
    "WINEAUTH00000001": "authorized",
    "COATAUTH00000001": "failed",
    "CAPEAUTH00000001": "authorized",
    "RINGAUTH00000001": "captured",
}


def test_stripe_events_are_mapped(payproc: Payproc, sql: Sql) -> None:
    found = run_filter(payproc, "stripe", STRIPE)
    assert found.summary == STRIPE_SUMMARY
    assert found.code == 3
    assert found.omitted == {
        "charge.captured": 1,
        "charge.dispute.created": 1,
        "charge.refunded": 2,
        "charge.succeeded": 1,
        "customer.created": 1,
        "payment_intent.created": 1,
        "payment_intent.payment_failed": 2,
        "payout.paid": 1,
        "refund.created": 1,
    }
    states = {payment_id.removeprefix("pi_3Qinvented"): state for payment_id, state, _ in contents(sql)["payments"]}
    assert states == STRIPE_STATES


def test_adyen_notifications_are_mapped(payproc: Payproc, sql: Sql) -> None:
    found = run_filter(payproc, "adyen", ADYEN)
    assert found.summary == ADYEN_SUMMARY
    assert found.code == 3
    assert found.omitted == {
        "AUTHORISATION_ADJUSTMENT true": 1,
        "CANCELLATION false": 1,
        "CAPTURE false": 1,
        "CHARGEBACK true": 1,
        "EXPIRE true": 1,
        "OFFER_CLOSED true": 1,
        "REPORT_AVAILABLE true": 1,
    }
    assert {payment_id: state for payment_id, state, _ in contents(sql)["payments"]} == ADYEN_STATES


def test_adyen_immediate_capture_is_mapped(payproc: Payproc, sql: Sql) -> None:
    """With the commented line of the filter, each authorization is its capture as well."""
    dump = "".join(line for line in ADYEN.splitlines(keepends=True) if "order-wine" in line or "order-coat" in line)
    found = run_filter(payproc, "adyen, immediate capture", dump)
    assert found.summary == [
        "WINEAUTH00000001:AUTHORISATION WINEAUTH00000001 authorize transition",
        "WINEAUTH00000001:AUTHORISATION:capture WINEAUTH00000001 capture transition",
        "WINEREFU00000002:CANCEL_OR_REFUND WINEAUTH00000001 refund transition",
        'type: unknown "CANCEL_OR_REFUND", expected authorize, capture, refund, fail or flag',
        "COATAUTH00000001:AUTHORISATION COATAUTH00000001 fail transition",
        "COATAUTH00000001:AUTHORISATION COATAUTH00000001 authorize event_id_conflict",
        "COATAUTH00000001:AUTHORISATION:capture COATAUTH00000001 capture payment_failed",
    ]
    before = contents(sql)
    assert run_filter(payproc, "adyen, immediate capture", dump).code == 3
    assert contents(sql) == before


def test_psp_fields_are_kept(payproc: Payproc, sql: Sql) -> None:
    run_filter(payproc, "stripe", STRIPE)
    shown = json.loads(payproc("show", "pi_3QinventedBike", "--format", "json").stdout)
    assert [entry["event_id"] for entry in shown["history"]] == [
        "evt_3QinventedBike3:authorize",
        "evt_3QinventedBike3:capture",
        "evt_3QinventedBike5",
    ]
    kept = sql.value("SELECT payload FROM payproc.events WHERE event_id = 'evt_3QinventedBike5'")
    assert {name: kept[name] for name in ("psp", "created", "amount")} == {
        "psp": "charge.refunded",
        "created": 1795515273,
        "amount": 89900,
    }


@each_psp
def test_replay_of_a_dump_changes_nothing(payproc: Payproc, sql: Sql, name: str, dump: str) -> None:
    first = run_filter(payproc, name, dump)
    before = contents(sql)
    again = run_filter(payproc, name, dump)
    assert contents(sql) == before
    assert again.omitted == first.omitted
    for once, twice in zip(first.decisions, again.decisions, strict=True):
        if "error" in once:
            assert twice == once
        elif once["reason"] == "event_id_conflict":
            assert twice == {**once, "known": True}
        else:
            assert twice["reason"] == "duplicate_event"


def test_stripe_list_pages_are_mapped(payproc: Payproc) -> None:
    """`stripe events list` prints one object over many lines, the newest event first."""
    events = [json.loads(line) for line in STRIPE.splitlines()]
    pages = [
        {"object": "list", "data": page[::-1], "has_more": True, "url": "/v1/events"}
        for page in (events[:9], events[9:])
    ]
    found = run_filter(payproc, "stripe", "\n".join(json.dumps(page, indent=2) for page in pages))
    assert found.summary == STRIPE_SUMMARY


def test_guide_names_the_kinds_of_the_dumps() -> None:
    """The kinds of events in the guide are tested here, and it names every code of Adyen's dump."""
    text = read(FILTERS)
    named = set(re.findall(r"\b(?:payment_intent|charge|refund)\.[a-z]+(?:[._][a-z]+)*", text))
    assert named
    assert named <= {kind(json.loads(line)) for line in STRIPE.splitlines()}
    codes = set(re.findall(r"\b[A-Z]{6,}(?:_[A-Z]+)*\b", text))
    assert codes == set(re.findall(r'"eventCode": "(\w+)"', ADYEN)) - {"OFFER_CLOSED", "REPORT_AVAILABLE"}
