"""The filters for Stripe and Adyen never end silently wrong: in any order, damaged, or cut off."""

import copy
import json
import random
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.postgres import Sql, contents
from tests.support.psp import (
    ADYEN,
    ADYEN_SUMMARY,
    STRIPE,
    STRIPE_SUMMARY,
    content,
    each_psp,
    kind,
    needs_jq,
    run_filter,
)
from tests.support.tally import count

pytestmark = needs_jq


def numbered(text: str, number: int) -> str:
    """Return the same text about other payments."""
    return text.replace("3Qinvented", f"3Q{number}invented").replace("0000000", f"{number:07}")


SEEN = ("REJECT", "MANUAL_REVIEW")
"""Outcomes that a person sees."""

COPIES = 100
"""Copies of each dump, about payments of their own."""

# The real state of each payment at the PSP, independent of the filters and of payproc.
STRIPE_TRUTH = {
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
}
ADYEN_TRUTH = {
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
}


@pytest.mark.parametrize(
    ("name", "dump", "truth"),
    [("stripe", STRIPE, STRIPE_TRUTH), ("adyen", ADYEN, ADYEN_TRUTH)],
    ids=["stripe", "adyen"],
)
def test_any_order_is_never_silently_wrong(payproc: Payproc, name: str, dump: str, truth: dict[str, str]) -> None:
    """A payment ends in its real state, or a person sees one of its events."""
    shuffled = []
    for number in range(COPIES):
        lines = numbered(dump, number).splitlines(keepends=True)
        random.Random(number).shuffle(lines)
        shuffled += lines
    found = run_filter(payproc, name, "".join(shuffled))
    count("lines of a PSP's dump in random order, through the filters", len(shuffled))

    states = {each["payment_id"]: each["state_after"] for each in found.decisions if "error" not in each}
    seen = {each["payment_id"] for each in found.decisions if each.get("outcome") in SEEN}
    seen |= {each["payment_id"] for each in found.malformed}
    really = {numbered(payment, number): state for number in range(COPIES) for payment, state in truth.items()}
    wrong = {payment for payment, state in really.items() if states.get(payment) != state}
    assert wrong - seen == set()
    assert wrong, "no order did any harm"
    assert len(really.keys() - seen) > 2 * COPIES, "a person would have to look at nearly everything"


# ---- Unknown content -----------------------------------------------------------------------------

DECISIVE = {
    "payment_intent.amount_capturable_updated": ("id", "data.object.id"),
    "payment_intent.succeeded": ("id", "data.object.id", "data.object.capture_method"),
    "payment_intent.canceled": ("id", "data.object.id"),
    "charge.refunded": ("id", "data.object.payment_intent", "data.object.captured", "data.object.refunded"),
    "AUTHORISATION": ("pspReference", "success"),
    "CAPTURE": ("pspReference", "originalReference", "success"),
    "REFUND": ("pspReference", "originalReference", "success"),
    "CANCELLATION": ("pspReference", "originalReference", "success"),
    "TECHNICAL_CANCEL": ("pspReference", "originalReference", "success"),
    "CANCEL_OR_REFUND": ("pspReference", "originalReference", "success", "additionalData"),
}
"""Fields that an event cannot be mapped without, by its kind."""

GONE = object()


def moves_money(event: dict[str, Any]) -> bool:
    """Return whether the filters map an event to a step.

    Events about a failed or partial step are omitted.
    """
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
        for value in (GONE, None, "", 7, {}, "unheard of"):
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
def test_missing_decisive_field_is_malformed(payproc: Payproc, name: str, dump: str) -> None:
    events = [json.loads(line) for line in dump.splitlines()]
    damaged = [each for event in events if moves_money(event) for each in damages(event)]
    count("events of a PSP's dump without a decisive field, through the filters", len(damaged))
    found = run_filter(payproc, name, "".join(json.dumps(each) + "\n" for each in damaged))
    assert [each for each in found.decisions if "error" not in each] == []
    assert len(found.decisions) >= len(damaged) > 100
    assert found.omitted == {}
    assert found.code == 3


@each_psp
def test_truncated_dump_is_noticed(payproc: Payproc, sql: Sql, name: str, dump: str) -> None:
    """The whole dump completes it."""
    for broken in (dump[: len(dump) // 2], dump + "[]\n"):
        found = run_filter(payproc, name, broken)
        assert "error" in found.stderr
        assert found.status != 0
    run_filter(payproc, name, dump)
    told = [each for each in (STRIPE_SUMMARY if name == "stripe" else ADYEN_SUMMARY) if "expected" not in each]
    recorded = {tuple(each.split()[:3]) for each in told if not each.endswith(("duplicate_event", "event_id_conflict"))}
    assert {(entry[2], entry[0], entry[3]) for entry in contents(sql)["events"]} == recorded
