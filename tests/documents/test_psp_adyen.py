"""The recipe for Adyen maps each code as its guide says, and tells a part from the whole."""

import random
from itertools import pairwise
from typing import Any

import pytest

from payproc.explain import Malformed
from payproc.logic import Outcome
from tests.support.psp import RecipeResult, needs_jq, run_recipe, sample
from tests.support.tally import count

pytestmark = needs_jq

SUMMARY = """
LAMPAUTH00000001:AUTHORISATION LAMPAUTH00000001 authorize transition
LAMPCAPT00000002:CAPTURE LAMPAUTH00000001 capture transition
LAMPAUTH00000001:AUTHORISATION LAMPAUTH00000001 authorize duplicate_event
LAMPREFU00000003:REFUND LAMPAUTH00000001 refund transition
LAMPREFU00000003:REFUND LAMPAUTH00000001 refund duplicate_event
BIKEAUTH00000001:AUTHORISATION BIKEAUTH00000001 fail transition
BIKEAUTH00000002:AUTHORISATION BIKEAUTH00000002 authorize transition
BIKECAPT00000003:CAPTURE:false:flag BIKEAUTH00000002 flag flagged
BIKECAPT00000004:CAPTURE BIKEAUTH00000002 capture transition
BIKECANC00000005:CANCELLATION:false:flag BIKEAUTH00000002 flag flagged
BIKEREFU00000006:REFUND:flag BIKEAUTH00000002 flag flagged
BIKEREFU00000007:REFUND:flag BIKEAUTH00000002 flag flagged
ROOMAUTH00000001:AUTHORISATION ROOMAUTH00000001 authorize transition
ROOMCANC00000002:CANCELLATION ROOMAUTH00000001 fail transition
SOFAAUTH00000001:AUTHORISATION SOFAAUTH00000001 authorize transition
SOFACANC00000002:TECHNICAL_CANCEL SOFAAUTH00000001 fail transition
DESKAUTH00000001:AUTHORISATION DESKAUTH00000001 authorize transition
DESKCANC00000002:CANCEL_OR_REFUND DESKAUTH00000001 fail transition
BOOKCAPT00000002:CAPTURE BOOKAUTH00000001 capture predecessor_missing
BOOKAUTH00000001:AUTHORISATION BOOKAUTH00000001 authorize transition
WINEAUTH00000001:AUTHORISATION WINEAUTH00000001 authorize transition
WINEREFU00000002:CANCEL_OR_REFUND WINEAUTH00000001 refund predecessor_missing
WINEREFU00000003:CANCEL_OR_REFUND:flag WINEAUTH00000001 flag flagged
COATAUTH00000001:AUTHORISATION COATAUTH00000001 fail transition
COATAUTH00000001:AUTHORISATION:true COATAUTH00000001 authorize authorize_after_failure
CAPEAUTH00000001:AUTHORISATION CAPEAUTH00000001 authorize transition
CAPEAUTH00000001:AUTHORISATION:false:flag CAPEAUTH00000001 flag flagged
RINGAUTH00000001:AUTHORISATION RINGAUTH00000001 authorize transition
RINGCAPT00000002:CAPTURE RINGAUTH00000001 capture transition
RINGCAPT00000002:CAPTURE_FAILED:flag RINGAUTH00000001 flag flagged
LAMPREFU00000003:REFUND_FAILED:flag LAMPAUTH00000001 flag flagged
LAMPREVE00000004:REFUNDED_REVERSED:flag LAMPAUTH00000001 flag flagged
BIKECHBK00000008:CHARGEBACK:flag BIKEAUTH00000002 flag flagged
RINGEXPI00000004:EXPIRE:flag RINGAUTH00000001 flag flagged
VASEAUTH00000001:AUTHORISATION:unknown:flag VASEAUTH00000001 flag flagged
VASECAPT00000002:CAPTURE:flag VASECAPT00000002 flag flagged
VASEREFU00000003:POSTPONED_REFUND:flag VASEAUTH00000001 flag flagged
HATSAUTH00000001:AUTHORISATION HATSAUTH00000001 authorize transition
HATSCAPT00000002:CAPTURE HATSAUTH00000001 capture transition
HATSCAPT00000003:CAPTURE HATSAUTH00000001 capture already_in_state
HATSREFU00000004:REFUND:flag HATSAUTH00000001 flag flagged
HATSREFU00000005:REFUND HATSAUTH00000001 refund transition
HATSREFU00000004:REFUND:flag HATSAUTH00000001 flag duplicate_event
""".strip().splitlines()
"""Decisions on the sample, in order."""


def item(code: str, reference: str, value: int | None = 1000, of: str = "P1", **fields: Any) -> dict[str, Any]:
    """Return a webhook of one item about a payment."""
    content = {
        "eventCode": code,
        "pspReference": reference,
        "success": "true",
        "amount": {"currency": "EUR", "value": value},
        **({} if code == "AUTHORISATION" else {"originalReference": of}),
        **fields,
    }
    return {"live": "true", "notificationItems": [{"NotificationRequestItem": content}]}


AUTHORIZED = item("AUTHORISATION", "P1")
CAPTURED = item("CAPTURE", "C1")


def refunds(*webhooks: dict[str, Any]) -> list[str]:
    """Return the types of the events about refunds."""
    return [each["type"] for each in run_recipe("adyen", webhooks).events if each["psp"] == "REFUND true"]


def test_sample_is_mapped() -> None:
    found = run_recipe("adyen", sample("adyen"))
    assert found.code == 0
    assert found.decide()[0] == SUMMARY
    assert found.report == [
        "adyen.jq: 43 events printed, 4 messages left out:"
        " 1 AUTHORISATION_ADJUSTMENT true, 1 OFFER_CLOSED true, 1 REPORT_AVAILABLE true",
        "adyen.jq: LEFT OUT 1: test-mode events; --arg mode test takes them, and only them",
    ]


def test_parts_are_added_up() -> None:
    parts = [item("REFUND", "R1", 400), item("REFUND", "R2", 350), item("REFUND", "R3", 250)]
    assert refunds(AUTHORIZED, CAPTURED, *parts) == ["flag", "flag", "refund"]


def test_redelivered_part_is_counted_once() -> None:
    """And a redelivery after the last part is still the part that it was."""
    first, second = item("REFUND", "R1", 600), item("REFUND", "R2", 400)
    assert refunds(AUTHORIZED, CAPTURED, first, first, second, first, second) == [
        *["flag", "flag", "refund", "flag", "refund"]
    ]
    assert refunds(AUTHORIZED, item("CAPTURE", "C1", 400), item("CAPTURE", "C1", 400), second) == ["refund"]


def test_refund_of_captured_part_is_whole() -> None:
    captures = [item("CAPTURE", "C1", 300), item("CAPTURE", "C2", 400)]
    assert refunds(AUTHORIZED, *captures, item("REFUND", "R1", 700)) == ["refund"]
    assert refunds(AUTHORIZED, *captures, item("REFUND", "R1", 400)) == ["flag"]
    assert refunds(AUTHORIZED, item("REFUND", "R1")) == ["refund"]


def test_failed_capture_is_not_refunded() -> None:
    failed = item("CAPTURE_FAILED", "C1")
    assert refunds(AUTHORIZED, CAPTURED, failed, failed, item("CAPTURE", "C2"), item("REFUND", "R1")) == ["refund"]
    assert refunds(AUTHORIZED, CAPTURED, failed, item("REFUND", "R1")) == ["flag"]


def test_unknown_amount_is_flagged() -> None:
    """Of the refund, of the authorization, or of both in one currency."""
    amounts: list[Any] = [None, 7, "1000", [], {}, {"value": 1000}, {"currency": "EUR", "value": "1000"}]
    amounts.append({"currency": "USD", "value": 1000})
    dump = [item("REFUND", "R1"), item("CAPTURE", "C2", of="P2"), item("REFUND", "R2", of="P2")]
    for number, amount in enumerate(amounts, 3):
        dump += [item("AUTHORISATION", f"P{number}"), item("REFUND", f"R{number}", of=f"P{number}", amount=amount)]
        dump += [item("AUTHORISATION", f"Q{number}", amount=amount), item("REFUND", f"S{number}", of=f"Q{number}")]
    assert refunds(*dump) == ["flag"] * (2 + 2 * len(amounts))


def test_adjusted_authorization_is_whole() -> None:
    adjusted = item("AUTHORISATION_ADJUSTMENT", "A1", 1500)
    assert refunds(AUTHORIZED, adjusted, item("REFUND", "R1", 1000), item("REFUND", "R2", 500)) == ["flag", "refund"]
    assert refunds(AUTHORIZED, adjusted, AUTHORIZED, item("REFUND", "R1", 1000)) == ["flag"]


def test_failed_refund_is_subtracted() -> None:
    failed = item("REFUND_FAILED", "R1", 600)
    dump = [AUTHORIZED, CAPTURED, item("REFUND", "R1", 600), failed, failed, item("REFUND", "R2", 400)]
    assert refunds(*dump) == ["flag", "flag"]
    assert refunds(*dump, item("REFUND", "R3", 600)) == ["flag", "flag", "refund"]


def test_flagged_part_does_not_burn_its_id() -> None:
    """A replay of the whole history still applies what a part of it could only flag."""
    whole = [AUTHORIZED, CAPTURED, item("REFUND", "R1")]
    alone, again = run_recipe("adyen", whole[2:]), run_recipe("adyen", whole)
    lines, _ = RecipeResult(0, alone.output + again.output, []).decide()
    assert lines[0] == "R1:REFUND:flag P1 flag flagged"
    assert lines[-1] == "R1:REFUND P1 refund transition"


def test_amounts_on_record_are_used() -> None:
    """The export of payproc, in front of the day's webhooks, makes the day's refunds decidable."""
    before = run_recipe("adyen", [AUTHORIZED, CAPTURED, item("REFUND", "R1", 400)])
    found = run_recipe("adyen", [*before.events, item("REFUND", "R1", 400), item("REFUND", "R2", 600)])
    assert [(each["event_id"], each["type"]) for each in found.events] == [
        ("R1:REFUND:flag", "flag"),
        ("R2:REFUND", "refund"),
    ]


def test_immediate_capture_is_mapped() -> None:
    dump = [AUTHORIZED, item("AUTHORISATION", "P2", success="false"), item("REFUND", "R1")]
    found = run_recipe("adyen", dump, "--arg", "capture", "immediate")
    assert found.decide()[0] == [
        "P1:AUTHORISATION P1 authorize transition",
        "P1:AUTHORISATION:capture P1 capture transition",
        "P2:AUTHORISATION P2 fail transition",
        "R1:REFUND P1 refund transition",
    ]


def test_matters_for_a_person_are_flagged() -> None:
    codes = [
        *["CAPTURE_FAILED", "REFUND_FAILED", "REFUNDED_REVERSED", "POSTPONED_REFUND", "EXPIRE", "VOID_PENDING_REFUND"],
        *[
            "CHARGEBACK",
            "SECOND_CHARGEBACK",
            "NOTIFICATION_OF_CHARGEBACK",
            "CHARGEBACK_REVERSED",
            "NOTIFICATION_OF_FRAUD",
        ],
        *["REQUEST_FOR_INFORMATION", "PREARBITRATION_LOST", "DISPUTE_DEFENSE_LOST", "NEVER_HEARD_OF"],
    ]
    assert run_recipe("adyen", [item(code, "X1", reason="a reason") for code in codes]).events == [
        {
            "event_id": f"X1:{code}:flag",
            "payment_id": "P1",
            "type": "flag",
            "psp": f"{code} true",
            "live": "true",
            "amount": {"currency": "EUR", "value": 1000},
            "reason": "a reason",
        }
        for code in codes
    ]


def test_failed_modifications_are_flagged() -> None:
    codes = ["CAPTURE", "REFUND", "CANCELLATION", "TECHNICAL_CANCEL", "CANCEL_OR_REFUND"]
    for success, word in (("false", "false"), (False, "false"), (None, "unknown"), ("yes", "unknown")):
        found = run_recipe("adyen", [item(code, "X1", success=success) for code in codes])
        assert [each["event_id"] for each in found.events] == [f"X1:{code}:{word}:flag" for code in codes]
        assert {each["type"] for each in found.events} == {"flag"}


def test_codes_without_a_step_are_counted() -> None:
    codes = ["OFFER_CLOSED", "ORDER_CLOSED", "ORDER_OPENED", "PENDING", "RECURRING_CONTRACT", "REPORT_AVAILABLE"]
    found = run_recipe("adyen", [item(code, "X1") for code in codes])
    counted = ", ".join(f"1 {code} true" for code in codes)
    assert found.report == [f"adyen.jq: 0 events printed, 6 messages left out: {counted}"]


def test_code_without_payment_or_money_is_counted() -> None:
    odd = item("NEVER_HEARD_OF", "X1", 0, originalReference="")
    found = run_recipe("adyen", [odd, item("NEVER_HEARD_OF", "X2", 5, originalReference="")])
    assert [each["payment_id"] for each in found.events] == ["X2"]
    assert found.report[-1] == "adyen.jq: LEFT OUT 1: NEVER_HEARD_OF true, which names no payment and no amount"


def test_several_items_of_a_webhook_are_read() -> None:
    both = {"live": True, "notificationItems": AUTHORIZED["notificationItems"] + CAPTURED["notificationItems"]}
    assert [each["event_id"] for each in run_recipe("adyen", [both]).events] == ["P1:AUTHORISATION", "C1:CAPTURE"]


def test_card_details_are_dropped() -> None:
    output = run_recipe("adyen", sample("adyen")).output
    assert "1111" not in output
    assert "signature" not in output
    assert '"merchantAccountCode":"InventedShopECOM"' in output


def split(total: int, chance: random.Random) -> list[int]:
    """Split an amount into one to three parts; sometimes the last is omitted."""
    cuts = sorted({0, total, *(chance.randrange(total) for _ in range(chance.choice([0, 0, 1, 2])))})
    parts = [end - start for start, end in pairwise(cuts)]
    return parts[: max(1, len(parts) - chance.choice([0, 0, 1]))]


def story(payment: str, chance: random.Random) -> tuple[list[dict[str, Any]], str]:
    """Return webhooks about a payment captured and refunded in parts, and its real state."""
    captures = split(1000, chance)
    webhooks = [item("AUTHORISATION", payment)]
    webhooks += [item("CAPTURE", f"{payment}C{number}", part, payment) for number, part in enumerate(captures)]
    held = sum(captures)
    for number, part in enumerate(split(held, chance) if chance.random() < 0.7 else []):
        webhooks.append(item("REFUND", f"{payment}R{number}", part, payment))
        held -= part
        if chance.random() < 0.1:
            webhooks.append(item("REFUND_FAILED", f"{payment}R{number}", part, payment))
            held += part
    return webhooks, "captured" if held else "refunded"


@pytest.mark.parametrize("delay", [0, 3, 100])
def test_parts_are_never_silently_wrong(delay: int) -> None:
    """With redeliveries, and with webhooks that come later by a random delay."""
    chance = random.Random(delay)
    arrivals: list[tuple[float, int, dict[str, Any]]] = []
    really: dict[str, str] = {}
    for number in range(300):
        webhooks, really[f"P{number}"] = story(f"P{number}", chance)
        for step, webhook in enumerate(webhooks):
            times = [number + step + delay * chance.random() for _ in range(chance.choice([1, 1, 1, 2]))]
            arrivals += [(time, len(arrivals) + copy, webhook) for copy, time in enumerate(times)]
    found = run_recipe("adyen", [webhook for _, _, webhook in sorted(arrivals, key=lambda each: each[:2])])
    count("webhooks about parts of payments, through the recipe for Adyen", len(arrivals))
    _, states = found.decide()
    seen = {
        event.payment_id
        for event, decision in (each for each in found.decisions() if not isinstance(each, Malformed))
        if decision.outcome in (Outcome.REJECT, Outcome.MANUAL_REVIEW)
    }
    wrong = {payment for payment, state in really.items() if states[payment] != state}
    assert wrong - seen == set()
    assert len(really.keys() - seen) > 30
    if delay == 0:
        assert wrong <= {event["payment_id"] for event in found.events if event["psp"] == "REFUND_FAILED true"}
