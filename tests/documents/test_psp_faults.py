"""The recipes for Stripe and Adyen never end silently wrong: in any order, damaged, or cut off."""

import copy
import json
import random
from typing import Any

import pytest

from payproc.explain import Malformed
from payproc.logic import EventType, Outcome
from tests.support.psp import RecipeResult, needs_jq, run_recipe, sample
from tests.support.tally import count

pytestmark = needs_jq

each_psp = pytest.mark.parametrize("name", ["stripe", "adyen"])

SEEN = (Outcome.REJECT, Outcome.MANUAL_REVIEW)
"""Outcomes that a person sees."""

COPIES = 100
"""Copies of each sample, about payments of their own."""

# The real state of each payment at the PSP, independent of the recipes and of payproc.
TRUTH = {
    "stripe": {
        "pi_3QinventedLamp": "refunded",
        "pi_3QinventedBike": "refunded",
        "pi_3QinventedBook": "refunded",
        "pi_3QinventedRoom": "failed",
        "pi_3QinventedSofa": "failed",
        "pi_3QinventedDesk": "failed",
        "pi_3QinventedWine": "captured",
        "pi_3QinventedCoat": "captured",
        "pi_3QinventedRing": "captured",
        "pi_3QinventedTent": "captured",
        "pi_3QinventedOven": "captured",
        "pi_3QinventedSled": "captured",
        "ch_3QinventedVase": "refunded",
        "ch_3QinventedMask": "refunded",
        "ch_3QinventedTray": "failed",
    },
    "adyen": {
        "LAMPAUTH00000001": "captured",
        "BIKEAUTH00000001": "failed",
        "BIKEAUTH00000002": "captured",
        "ROOMAUTH00000001": "failed",
        "SOFAAUTH00000001": "failed",
        "DESKAUTH00000001": "failed",
        "BOOKAUTH00000001": "captured",
        "WINEAUTH00000001": "refunded",
        "COATAUTH00000001": "authorized",
        "CAPEAUTH00000001": "authorized",
        "RINGAUTH00000001": "authorized",
        "VASEAUTH00000001": "authorized",
        "HATSAUTH00000001": "refunded",
    },
}


def numbered(text: str, number: int) -> str:
    """Return the same text about other payments."""
    return text.replace("3Qinvented", f"3Q{number}invented").replace("0000000", f"{number:07}")


def wrong_and_seen(found: RecipeResult, really: dict[str, str]) -> tuple[set[str], set[str]]:
    """Return the payments that end in a wrong state, and those that a person sees."""
    decisions = [each for each in found.decisions() if not isinstance(each, Malformed)]
    assert len(decisions) == len(found.events), "a sample holds no malformed event"
    _, states = found.decide()
    wrong = {payment for payment, state in really.items() if states.get(payment) != state}
    return wrong, {event.payment_id for event, decision in decisions if decision.outcome in SEEN}


@each_psp
def test_any_order_is_never_silently_wrong(name: str) -> None:
    """A payment ends in its real state, or a person sees one of its events."""
    shuffled = []
    for number in range(COPIES):
        lines = numbered(sample(name), number).splitlines(keepends=True)
        random.Random(number).shuffle(lines)
        shuffled += lines
    found = run_recipe(name, "".join(shuffled))
    count("lines of a PSP's dump in random order, through the recipes", len(shuffled))

    really = {numbered(payment, number): state for number in range(COPIES) for payment, state in TRUTH[name].items()}
    wrong, seen = wrong_and_seen(found, really)
    assert wrong - seen == set()
    assert wrong, "no order did any harm"
    assert len(really.keys() - seen) > 2 * COPIES, "a person would have to look at nearly everything"


@each_psp
def test_replay_in_another_order_is_not_wrong(name: str) -> None:
    """The books of one order take the same dump in another one."""
    first, second = sample(name).splitlines(keepends=True), sample(name).splitlines(keepends=True)
    random.Random(1).shuffle(second)
    both = run_recipe(name, "".join(first)).output + run_recipe(name, "".join(second)).output
    wrong, seen = wrong_and_seen(RecipeResult(0, both, []), TRUTH[name])
    assert wrong - seen == set()


# ---- Unknown content -----------------------------------------------------------------------------

DECISIVE = {
    "payment_intent.amount_capturable_updated": ("id", "data.object.id"),
    "payment_intent.succeeded": ("id", "data.object.id", "data.object.capture_method"),
    "payment_intent.canceled": ("id", "data.object.id"),
    "charge.refunded": ("id", "data.object.captured", "data.object.refunded"),
    "AUTHORISATION": ("pspReference", "success"),
    "CAPTURE": ("pspReference", "originalReference", "success"),
    "REFUND": ("pspReference", "originalReference", "success", "amount"),
    "CANCELLATION": ("pspReference", "originalReference", "success"),
    "TECHNICAL_CANCEL": ("pspReference", "originalReference", "success"),
    "CANCEL_OR_REFUND": ("pspReference", "originalReference", "success", "additionalData"),
}
"""Fields that an event cannot be mapped without, by its kind."""

GONE = object()


def content(event: dict[str, Any]) -> dict[str, Any]:
    """Return the part with the kind of an event.

    That is the event itself at Stripe, and the item of the webhook at Adyen.
    """
    if "notificationItems" not in event:
        return event
    item: dict[str, Any] = event["notificationItems"][0]["NotificationRequestItem"]
    return item


def kind(event: dict[str, Any]) -> str:
    """Return the PSP's name for the kind of an event."""
    item = content(event)
    return str(item.get("eventCode") or item.get("type"))


def moves_money(event: dict[str, Any]) -> bool:
    """Return whether the recipes map an event to a step.

    Events about a failed or partial step are flagged or left out, and so are those of test mode.
    """
    if "false" in json.dumps([event.get("live"), event.get("livemode")]):
        return False
    item = content(event)
    charge = item.get("data", {}).get("object", {})
    return kind(event) in DECISIVE and (
        item.get("success") != "false" and charge.get("captured") is not False and charge.get("refunded") is not False
    )


def damages(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the event without one of its decisive fields, or with a senseless one."""
    result = []
    for field in DECISIVE[kind(event)]:
        *path, last = field.split(".")
        for value in (GONE, None, "", 7, {}, [], "unheard of"):
            damaged = copy.deepcopy(event)
            target = content(damaged)
            for step in path:
                target = target[step]
            target[last] = value
            if value is GONE:
                del target[last]
            if value != "unheard of" or last in ("capture_method", "captured", "refunded", "success", "additionalData"):
                result.append(damaged)
    return result


@each_psp
def test_missing_decisive_field_is_seen(name: str) -> None:
    """The event is malformed or a flag, and never a step."""
    events = [json.loads(line) for line in sample(name).splitlines()]
    damaged = [each for event in events if moves_money(event) for each in damages(event)]
    count("events of a PSP's dump without a decisive field, through the recipes", len(damaged))
    found = run_recipe(name, damaged)
    decisions = found.decisions()
    assert {each[0].type for each in decisions if not isinstance(each, Malformed)} == {EventType.FLAG}
    assert len(decisions) >= len(damaged) > 100


@each_psp
def test_truncated_dump_is_noticed(name: str) -> None:
    """The whole dump completes it."""
    whole = run_recipe(name, sample(name)).output
    for broken in (sample(name)[: len(sample(name)) // 2 - 9], sample(name) + "[]\n}"):
        found = run_recipe(name, broken)
        assert found.code == 5
        assert "not JSON" in found.report[-1]
        assert whole.startswith(found.output)
