"""The recipes for seven more PSPs map each kind of event as their guide says."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.explain import Malformed
from payproc.logic import Outcome
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, contents
from tests.support.psp import RecipeResult, needs_jq, run_recipe, sample
from tests.support.tally import count

pytestmark = needs_jq

DECISIONS = {
    "checkout": """
pay_Lamp:authorize pay_Lamp authorize transition
evt_invented02:capture pay_Lamp capture transition
evt_invented04:refund pay_Lamp refund transition
pay_Book:authorize pay_Book authorize transition
evt_invented05:capture pay_Book capture transition
pay_Book:authorize pay_Book authorize duplicate_event
pay_Bike:authorize pay_Bike authorize transition
evt_invented08:capture pay_Bike capture transition
evt_invented09:flag pay_Bike flag flagged
evt_invented08:capture pay_Bike capture duplicate_event
evt_invented10:refund pay_Bike refund transition
pay_Room:authorize pay_Room authorize transition
evt_invented12:fail pay_Room fail transition
evt_invented13:fail pay_Sofa fail transition
pay_Coat:authorize pay_Coat authorize transition
evt_invented15:capture pay_Coat capture transition
evt_invented16:flag pay_Coat flag flagged
evt_invented17:flag pay_Coat flag flagged
evt_invented18:fail pay_Wine fail transition
pay_Ring:authorize pay_Ring authorize transition
evt_invented20:flag pay_Ring flag flagged
""",
    "square": """
sqLamp:authorize sqLamp authorize transition
sqLamp:capture sqLamp capture transition
sqLamp:refund sqLamp refund transition
sqBook:authorize sqBook authorize transition
sqBook:capture sqBook capture transition
sqBook:refunded:300:flag sqBook flag flagged
sqBook:refund sqBook refund transition
sqRoom:authorize sqRoom authorize transition
sqRoom:fail sqRoom fail transition
sqSofa:fail sqSofa fail transition
sqDesk:authorize sqDesk authorize transition
sqDesk:capture sqDesk capture transition
invented-16:flag sqDesk flag flagged
invented-17:flag sqDesk flag flagged
sqDesk_R:FAILED:flag sqDesk flag flagged
sqWine_R:COMPLETED:flag sqWine flag flagged
""",
    "mollie": """
tr_Lamp:authorize tr_Lamp authorize transition
tr_Lamp:capture tr_Lamp capture transition
tr_Lamp:refund tr_Lamp refund transition
tr_Bike:authorize tr_Bike authorize transition
tr_Bike:capture tr_Bike capture transition
tr_Bike:refunded:0.3:flag tr_Bike flag flagged
tr_Bike:refund tr_Bike refund transition
tr_Sofa:fail tr_Sofa fail transition
tr_Room:fail tr_Room fail transition
tr_Wine:fail tr_Wine fail transition
tr_Desk:authorize tr_Desk authorize transition
tr_Desk:capture tr_Desk capture transition
tr_Desk:charged_back:25:flag tr_Desk flag flagged
re_Coat:failed:flag tr_Coat flag flagged
""",
    "gocardless": """
EVINVENTED03:authorize PMLAMP authorize transition
EVINVENTED03:capture PMLAMP capture transition
EVINVENTED03:authorize PMLAMP authorize duplicate_event
EVINVENTED03:capture PMLAMP capture duplicate_event
EVINVENTED06:fail PMSOFA fail transition
EVINVENTED08:authorize PMBIKE authorize transition
EVINVENTED08:capture PMBIKE capture transition
EVINVENTED09:fail PMROOM fail transition
EVINVENTED10:authorize PMDESK authorize transition
EVINVENTED10:capture PMDESK capture transition
EVINVENTED11:flag PMDESK flag flagged
EVINVENTED12:authorize PMCOAT authorize transition
EVINVENTED12:capture PMCOAT capture transition
EVINVENTED13:fail PMCOAT fail failure_after_capture
RFINVENTED1:event:flag RFINVENTED1 flag flagged
EVINVENTED15:flag RFINVENTED1 flag flagged
PMLAMP:refunded:400:flag PMLAMP flag flagged
PMBIKE:refund PMBIKE refund transition
RFINVENTED2:flag PMDESK flag flagged
""",
    "razorpay": """
payment.authorized:pay_RzpLamp pay_RzpLamp authorize transition
payment.captured:pay_RzpLamp pay_RzpLamp capture transition
payment.captured:pay_RzpLamp pay_RzpLamp capture duplicate_event
payment.refunded:pay_RzpLamp pay_RzpLamp refund transition
payment.authorized:pay_RzpBike pay_RzpBike authorize transition
payment.captured:pay_RzpBike pay_RzpBike capture transition
refund.processed:rfnd_RzpBike1:flag pay_RzpBike flag flagged
refund.processed:rfnd_RzpBike1:flag pay_RzpBike flag duplicate_event
payment.refunded:pay_RzpBike pay_RzpBike refund transition
payment.failed:pay_RzpSofa pay_RzpSofa fail transition
payment.failed:pay_RzpRoom pay_RzpRoom fail transition
payment.authorized:pay_RzpRoom pay_RzpRoom authorize authorize_after_failure
payment.authorized:pay_RzpDesk pay_RzpDesk authorize transition
payment.captured:pay_RzpDesk pay_RzpDesk capture transition
payment.dispute.created:disp_RzpDesk:flag pay_RzpDesk flag flagged
payment.dispute.lost:disp_RzpDesk:flag pay_RzpDesk flag flagged
payment.authorized:pay_RzpCoat pay_RzpCoat authorize transition
payment.captured:pay_RzpCoat pay_RzpCoat capture transition
refund.failed:rfnd_RzpCoat:flag pay_RzpCoat flag flagged
""",
    "shopify": """
5001:authorize 5001 authorize transition
5001:capture 5001 capture transition
5001:capture 5001 capture duplicate_event
5002:refund 5001 refund transition
5003:authorize 5003 authorize transition
5004:capture 5003 capture transition
5005:capture 5003 capture already_in_state
5006:flag 5003 flag flagged
5007:refund 5003 refund transition
5006:flag 5003 flag duplicate_event
5008:authorize 5008 authorize transition
5009:fail 5008 fail transition
5010:fail 5010 fail transition
5011:authorize 5011 authorize transition
5011:capture 5011 capture transition
5012:flag 5011 flag flagged
5013:flag 4999 flag flagged
dispute:800:needs_response:flag 5011 flag flagged
""",
    "paypal": """
CAPLAMP:authorize CAPLAMP authorize transition
CAPLAMP:capture CAPLAMP capture transition
CAPLAMP:capture CAPLAMP capture duplicate_event
REFLAMP:refund CAPLAMP refund transition
AUTHBIKE:authorize AUTHBIKE authorize transition
CAPBIKE1:capture AUTHBIKE capture transition
CAPBIKE2:capture AUTHBIKE capture already_in_state
REFBIKE1:flag AUTHBIKE flag flagged
REFBIKE2:flag AUTHBIKE flag flagged
REFBIKE3:refund AUTHBIKE refund transition
REFBIKE1:flag AUTHBIKE flag duplicate_event
AUTHROOM:authorize AUTHROOM authorize transition
AUTHROOM:fail AUTHROOM fail transition
CAPSOFA:fail CAPSOFA fail transition
CAPDESK:authorize CAPDESK authorize transition
CAPDESK:capture CAPDESK capture transition
WH-INVENTED15:CAPDESK:flag CAPDESK flag flagged
WH-INVENTED16:flag CAPDESK flag flagged
REFCOAT:flag CAPCOAT flag flagged
SALEWINE:authorize SALEWINE authorize transition
SALEWINE:capture SALEWINE capture transition
REFWINE:flag SALEWINE flag flagged
""",
}
"""Decisions on the sample of each PSP, in order: event_id, payment_id, type, reason."""

REPORTS = {
    "checkout": [
        "21 events printed, 4 messages left out: 1 issuing_dispute_closed, 1 payment_refund_pending",
        "LEFT OUT 1: not a Checkout.com event",
        "LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
    ],
    "square": [
        "16 events printed, 6 messages left out: "
        "1 customer.created, 1 payment.created PENDING, 1 refund.created PENDING",
        "LEFT OUT 3: not a Square event",
    ],
    "mollie": [
        "14 events printed, 4 messages left out: 1 event payment-link.paid, 1 payment open",
        "LEFT OUT 1: not a Mollie object",
        "LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
    ],
    "gocardless": [
        "19 events printed, 7 messages left out: "
        "1 mandates active, 1 payments created, 1 payments failed, 1 payments paid_out, "
        "1 payments submitted, 1 payments without a refund",
        "LEFT OUT 1: not a GoCardless event",
    ],
    "razorpay": [
        "19 events printed, 3 messages left out: 1 refund.created, 1 settlement.processed",
        "LEFT OUT 1: not a Razorpay event",
    ],
    "shopify": [
        "18 events printed, 3 messages left out: 1 sale pending",
        "LEFT OUT 1: not a Shopify transaction",
        "LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
    ],
    "paypal": [
        "22 events printed, 5 messages left out: "
        "1 BILLING.SUBSCRIPTION.ACTIVATED, 1 CHECKOUT.ORDER.APPROVED, 1 PAYMENT.CAPTURE.PENDING",
        "LEFT OUT 1: not a PayPal event",
        "LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
    ],
}

each_psp = pytest.mark.parametrize("name", DECISIONS)


@cache
def run_sample(name: str) -> RecipeResult:
    return run_recipe(name, sample(name))


@each_psp
def test_sample_is_mapped(name: str) -> None:
    found = run_sample(name)
    lines, _ = found.decide()
    assert lines == DECISIONS[name].split("\n")[1:-1]
    assert (found.code, found.report) == (0, [f"{name}.jq: {line}" for line in REPORTS[name]])
    private = ("person", "Invented Person", "@", "4242", "1111", "+91")
    assert not [word for word in private if word in found.output]


def test_samples_are_ingested_once(tmp_path: Path, url: URL, sql: Sql) -> None:
    """payproc decides as expected, and a replay of all samples adds nothing."""
    run_in_process = InProcess(tmp_path, url)
    output = b"".join(run_sample(name).output.encode() for name in DECISIONS)
    run_in_process.summary("-", "--decisions", "decisions.jsonl", stdin=output)
    decisions = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert [f"{each['event_id']} {each['payment_id']} {each['type']} {each['reason']}" for each in decisions] == [
        line for lines in DECISIONS.values() for line in lines.split("\n")[1:-1]
    ]
    before = contents(sql)
    replay = run_in_process.summary("-", stdin=output)
    assert replay["outcomes"] == {"APPLY": 0, "IGNORE": len(decisions), "REJECT": 0, "MANUAL_REVIEW": 0}
    assert contents(sql) == before


def damaged(message: Any) -> Iterator[Any]:
    """Yield copies of a message, each with another value in one place, or without it."""
    yield from (None, 0, "x", [], {}, True)
    if isinstance(message, dict):
        for key, content in message.items():
            yield {name: each for name, each in message.items() if name != key}
            yield from ({**message, key: each} for each in damaged(content))
    elif isinstance(message, list):
        for index, content in enumerate(message):
            yield from ([*message[:index], each, *message[index + 1 :]] for each in damaged(content))


@pytest.mark.slow
@each_psp
def test_damaged_messages_stop_nothing(name: str) -> None:
    """Each becomes events or is counted, and good messages behind it are read."""
    messages = [json.loads(line) for line in sample(name).splitlines()]
    copies = [copy for message in messages for copy in damaged(message)]
    found = run_recipe(name, [*copies, *messages])
    assert found.code == 0
    printed = {event["event_id"] for event in found.events if event.get("event_id")}
    assert {line.split()[0] for line in DECISIONS[name].split("\n")[1:-1]} <= printed
    count("damaged messages of PSPs", len(copies))


CAPTURE_OF = {"5004": "5003", "5005": "5003", "CAPBIKE1": "AUTHBIKE", "CAPBIKE2": "AUTHBIKE"}
"""The payment of each capture. A refund before its capture is flagged under the capture's id."""


@pytest.mark.slow
@each_psp
@pytest.mark.parametrize("seed", range(10))
def test_disorder_is_never_silently_wrong(name: str, seed: int) -> None:
    """In any order a payment ends in its real state, or a person sees it."""
    _, truth = run_sample(name).decide()
    messages = sample(name).splitlines(keepends=True)
    random.Random(seed).shuffle(messages)
    found = run_recipe(name, "".join(messages))
    _, states = found.decide()
    seen = set()
    for each in found.decisions():
        assert not isinstance(each, Malformed)
        event, decision = each
        if decision.outcome in (Outcome.REJECT, Outcome.MANUAL_REVIEW):
            seen |= {event.payment_id, CAPTURE_OF.get(event.payment_id, event.payment_id)}
    assert {payment for payment, state in truth.items() if states.get(payment) != state} <= seen
    count("shuffled messages of PSPs", len(messages))
