"""The filters for Stripe and Adyen, run as the guide prints them on dumps in the PSPs' own shapes.

The dumps follow the PSPs' public API references. Their ids are invented. Each names its payment in
a word, such as `evt_3QinventedLamp4`, so that expected results are readable.
"""

import json
import re
import shutil
from typing import Any, NamedTuple

import pytest

from tests.support.command import Payproc
from tests.support.documents import FILTERS, ROOT, blocks, run_script

SCRIPTS = dict(zip(("stripe", "adyen"), blocks(FILTERS, "sh"), strict=True))
"""Each filter with its commands, as printed."""

# A reader removes the mark of the line that is commented out.
SCRIPTS["adyen, immediate capture"] = re.sub(r'^# (?=adyen=")', "", SCRIPTS["adyen"], flags=re.MULTILINE)

_DUMPS = ROOT / "tests" / "documents" / "psp_dumps"
STRIPE = (_DUMPS / "stripe_events.jsonl").read_text()
ADYEN = (_DUMPS / "adyen_notifications.jsonl").read_text()

each_psp = pytest.mark.parametrize(("name", "dump"), [("stripe", STRIPE), ("adyen", ADYEN)], ids=["stripe", "adyen"])

needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the filters use jq, which is not installed here")

_PROLOGUE = """
set -o pipefail
payproc() { command payproc "$@" --decisions decisions.jsonl --malformed malformed.jsonl; echo $? > code; }
"""
"""Saves payproc's decisions and exit code to files. The script itself stays as printed."""


class FilterResult(NamedTuple):
    """The results of a filter's script."""

    status: int
    """The shell's exit code."""
    code: int
    """payproc's exit code."""
    decisions: list[dict[str, Any]]
    """One object for each line that payproc got."""
    malformed: list[dict[str, Any]]
    """Lines that are no events to payproc."""
    omitted: dict[str, int]
    """Counts of the events that the filter omits, by kind."""
    stderr: str

    @property
    def summary(self) -> list[str]:
        """The decisions as short lines, to compare with expected ones."""
        return [
            each.get("error") or f"{each['event_id']} {each['payment_id']} {each['type']} {each['reason']}"
            for each in self.decisions
        ]


def run_filter(payproc: Payproc, name: str, dump: str) -> FilterResult:
    """Run a filter's script on a dump."""

    def read_lines(file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (payproc.folder / file).read_text().splitlines()]

    (payproc.folder / f"{name.partition(',')[0]}.jsonl").write_text(dump)
    finished = run_script(_PROLOGUE + SCRIPTS[name], payproc.folder, payproc.environment)
    counted = re.findall(r"^ +(\d+) (.+)$", finished.stdout, re.MULTILINE)
    return FilterResult(
        finished.returncode,
        int((payproc.folder / "code").read_text()),
        read_lines("decisions.jsonl"),
        read_lines("malformed.jsonl"),
        {kind: int(times) for times, kind in counted},
        finished.stderr,
    )


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


def expected_lines(text: str) -> list[str]:
    """Return the lines of a text that omits the common part of Stripe's ids."""
    return re.sub(r"\b(evt|pi)_", r"\1_3Qinvented", text).strip().splitlines()


STRIPE_SUMMARY = expected_lines("""
evt_Lamp2 pi_Lamp authorize transition
evt_Lamp4 pi_Lamp capture transition
evt_Lamp5 pi_Lamp refund transition
evt_Lamp4 pi_Lamp capture duplicate_event
evt_Bike3:authorize pi_Bike authorize transition
evt_Bike3:capture pi_Bike capture transition
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
type: unknown "refund.failed", expected authorize, capture, refund, fail or flag
type: unknown "charge.refund.updated", expected authorize, capture, refund, fail or flag
evt_Ring1:authorize pi_Ring authorize transition
evt_Ring1:capture pi_Ring capture transition
payment_id: null, expected a string of 1 to 255 characters
type: unknown "payment_intent.succeeded", expected authorize, capture, refund, fail or flag
evt_Oven1:authorize pi_Oven authorize transition
evt_Oven1:capture pi_Oven capture transition
evt_Oven2 pi_Oven refund transition
type: unknown "refund.updated", expected authorize, capture, refund, fail or flag
payment_id: null, expected a string of 1 to 255 characters
""")
"""Decisions on the dump of Stripe, in order."""

ADYEN_SUMMARY = expected_lines("""
LAMPAUTH00000001:AUTHORISATION LAMPAUTH00000001 authorize transition
LAMPCAPT00000002:CAPTURE LAMPAUTH00000001 capture transition
LAMPAUTH00000001:AUTHORISATION LAMPAUTH00000001 authorize duplicate_event
LAMPREFU00000003:REFUND LAMPAUTH00000001 refund transition
LAMPREFU00000003:REFUND LAMPAUTH00000001 refund duplicate_event
BIKEAUTH00000001:AUTHORISATION BIKEAUTH00000001 fail transition
BIKEAUTH00000002:AUTHORISATION BIKEAUTH00000002 authorize transition
BIKECAPT00000004:CAPTURE BIKEAUTH00000002 capture transition
BIKEREFU00000006:REFUND BIKEAUTH00000002 refund transition
BIKEREFU00000007:REFUND BIKEAUTH00000002 refund repeated_refund
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
type: unknown "CANCEL_OR_REFUND", expected authorize, capture, refund, fail or flag
COATAUTH00000001:AUTHORISATION COATAUTH00000001 fail transition
COATAUTH00000001:AUTHORISATION COATAUTH00000001 authorize event_id_conflict
CAPEAUTH00000001:AUTHORISATION CAPEAUTH00000001 authorize transition
CAPEAUTH00000001:AUTHORISATION CAPEAUTH00000001 fail event_id_conflict
RINGAUTH00000001:AUTHORISATION RINGAUTH00000001 authorize transition
RINGCAPT00000002:CAPTURE RINGAUTH00000001 capture transition
type: unknown "CAPTURE_FAILED", expected authorize, capture, refund, fail or flag
type: unknown "REFUND_FAILED", expected authorize, capture, refund, fail or flag
type: unknown "REFUNDED_REVERSED", expected authorize, capture, refund, fail or flag
type: unknown "AUTHORISATION", expected authorize, capture, refund, fail or flag
payment_id: empty, expected a string of 1 to 255 characters
type: unknown "POSTPONED_REFUND", expected authorize, capture, refund, fail or flag
""")
"""Decisions on the dump of Adyen, in order."""
