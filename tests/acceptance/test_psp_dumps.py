"""The README's recipes for dumps of Stripe and Adyen: run as they stand there, on dumps in the PSPs' own shapes.

The fixtures follow the PSPs' public API references; ids are invented, and what tells one thing from another in an id is
left as a name (`evt_3QinventedLamp4`), so that what is expected can be read here.
"""

import copy
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.command import Payproc
from tests.support.postgres import Sql, contents
from tests.support.tally import count

SECTION = (
    (Path(__file__).parents[2] / "README.md").read_text().partition("## From a PSP's dump\n")[2].partition("\n## ")[0]
)
RECIPES = dict(
    zip(("stripe", "adyen"), re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL), strict=True)
)
# A reader takes away the mark of the line that is commented out.
RECIPES["adyen, captured at once"] = re.sub(r'^# (?=adyen=")', "", RECIPES["adyen"], flags=re.MULTILINE)

DUMPS = Path(__file__).parent / "psp_dumps"
STRIPE = (DUMPS / "stripe_events.jsonl").read_text()
ADYEN = (DUMPS / "adyen_notifications.jsonl").read_text()

SEEN = ("REJECT", "MANUAL_REVIEW")
"""Outcomes that a person gets to see."""

_TAPPED = """
set -o pipefail
payproc() { command payproc "$@" --decisions decisions.jsonl --malformed malformed.jsonl; echo $? > code; }
"""
"""Stands before a recipe: what becomes of each line, and payproc's exit code, go to files; the recipe is as it is."""


class Finding(NamedTuple):
    """What was found after a recipe had run."""

    status: int
    """The shell's exit code."""
    code: int
    """payproc's exit code."""
    decisions: list[dict[str, Any]]
    """What became of each line that payproc got."""
    malformed: list[dict[str, Any]]
    """Lines that are no events to payproc."""
    left_out: dict[str, int]
    """What the recipe left out, by its kind."""
    stderr: str

    @property
    def told(self) -> list[str]:
        """The decisions, short, to be compared with what is expected."""
        return [
            each.get("error") or f"{each['event_id']} {each['payment_id']} {each['type']} {each['reason']}"
            for each in self.decisions
        ]


@pytest.fixture
def run_recipe(payproc: Payproc) -> Callable[[str, str], Finding]:
    """Runs a recipe on a dump."""
    if not shutil.which("jq"):
        pytest.skip("the recipes use jq, which is not installed here")
    scripts = str(Path(sys.executable).parent)
    environment = {**payproc.environment, "PATH": f"{scripts}:{payproc.environment['PATH']}"}

    def read_lines(file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (payproc.folder / file).read_text().splitlines()]

    def run(name: str, dump: str) -> Finding:
        (payproc.folder / f"{name.partition(',')[0]}.jsonl").write_text(dump)
        finished = subprocess.run(
            ["bash", "-c", _TAPPED + RECIPES[name]],
            cwd=payproc.folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        counted = re.findall(r"^ +(\d+) (.+)$", finished.stdout, re.MULTILINE)
        return Finding(
            finished.returncode,
            int((payproc.folder / "code").read_text()),
            read_lines("decisions.jsonl"),
            read_lines("malformed.jsonl"),
            {kind: int(times) for times, kind in counted},
            finished.stderr,
        )

    return run


# ---- Event by event -------------------------------------------------------------------------------


def lines_of(text: str) -> list[str]:
    """The lines of a text that gives Stripe's ids without what all of them have in common."""
    return re.sub(r"\b(evt|pi)_", r"\1_3Qinvented", text).strip().splitlines()


STRIPE_TOLD = lines_of("""
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

ADYEN_TOLD = lines_of("""
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


def test_stripes_events_come_out_as_they_should(run_recipe: Callable[..., Finding], sql: Sql) -> None:
    found = run_recipe("stripe", STRIPE)
    assert found.told == STRIPE_TOLD
    assert found.code == 3
    assert found.left_out == {
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


def test_adyens_notifications_come_out_as_they_should(run_recipe: Callable[..., Finding], sql: Sql) -> None:
    found = run_recipe("adyen", ADYEN)
    assert found.told == ADYEN_TOLD
    assert found.code == 3
    assert found.left_out == {
        "AUTHORISATION_ADJUSTMENT true": 1,
        "CANCELLATION false": 1,
        "CAPTURE false": 1,
        "CHARGEBACK true": 1,
        "EXPIRE true": 1,
        "OFFER_CLOSED true": 1,
        "REPORT_AVAILABLE true": 1,
    }
    assert {payment_id: state for payment_id, state, _ in contents(sql)["payments"]} == ADYEN_STATES


def test_where_adyen_captures_at_once_each_authorization_is_its_capture_too(
    run_recipe: Callable[..., Finding], sql: Sql
) -> None:
    dump = "".join(line for line in ADYEN.splitlines(keepends=True) if "order-wine" in line or "order-coat" in line)
    found = run_recipe("adyen, captured at once", dump)
    assert found.told == [
        "WINEAUTH00000001:AUTHORISATION WINEAUTH00000001 authorize transition",
        "WINEAUTH00000001:AUTHORISATION:capture WINEAUTH00000001 capture transition",
        "WINEREFU00000002:CANCEL_OR_REFUND WINEAUTH00000001 refund transition",
        'type: unknown "CANCEL_OR_REFUND", expected authorize, capture, refund, fail or flag',
        "COATAUTH00000001:AUTHORISATION COATAUTH00000001 fail transition",
        "COATAUTH00000001:AUTHORISATION COATAUTH00000001 authorize event_id_conflict",
        "COATAUTH00000001:AUTHORISATION:capture COATAUTH00000001 capture payment_failed",
    ]
    before = contents(sql)
    assert run_recipe("adyen, captured at once", dump).code == 3
    assert contents(sql) == before


def test_show_tells_what_the_psp_called_it(run_recipe: Callable[..., Finding], payproc: Payproc, sql: Sql) -> None:
    run_recipe("stripe", STRIPE)
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


# ---- Again, otherwise delivered, and in any order -------------------------------------------------


@pytest.mark.parametrize(("name", "dump"), [("stripe", STRIPE), ("adyen", ADYEN)], ids=["stripe", "adyen"])
def test_a_replay_changes_nothing(run_recipe: Callable[..., Finding], sql: Sql, name: str, dump: str) -> None:
    first = run_recipe(name, dump)
    before = contents(sql)
    again = run_recipe(name, dump)
    assert contents(sql) == before
    assert again.left_out == first.left_out
    for once, twice in zip(first.decisions, again.decisions, strict=True):
        if "error" in once:
            assert twice == once
        elif once["reason"] == "event_id_conflict":
            assert twice == {**once, "known": True}
        else:
            assert twice["reason"] == "duplicate_event"


def test_a_list_from_stripes_api_comes_out_as_its_events_do(run_recipe: Callable[..., Finding]) -> None:
    """`stripe events list` prints one object over many lines, the newest event first."""
    events = [json.loads(line) for line in STRIPE.splitlines()]
    pages = [
        {"object": "list", "data": page[::-1], "has_more": True, "url": "/v1/events"}
        for page in (events[:9], events[9:])
    ]
    found = run_recipe("stripe", "\n".join(json.dumps(page, indent=2) for page in pages))
    assert found.told == STRIPE_TOLD


def numbered(text: str, number: int) -> str:
    """The same about other payments."""
    return text.replace("3Qinvented", f"3Q{number}invented").replace("0000000", f"{number:07}")


COPIES = 100

# What the payments really are at the PSP, whatever the recipes and payproc make of it.
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
def test_no_order_of_delivery_ends_silently_wrong(
    run_recipe: Callable[..., Finding], name: str, dump: str, truth: dict[str, str]
) -> None:
    """A payment ends as what it really is, or a person gets to see one of its events."""
    shuffled = []
    for number in range(COPIES):
        lines = numbered(dump, number).splitlines(keepends=True)
        random.Random(number).shuffle(lines)
        shuffled += lines
    found = run_recipe(name, "".join(shuffled))
    count("lines of a PSP's dump in random order, through the README's recipes", len(shuffled))

    states = {each["payment_id"]: each["state_after"] for each in found.decisions if "error" not in each}
    seen = {each["payment_id"] for each in found.decisions if each.get("outcome") in SEEN}
    seen |= {each["payment_id"] for each in found.malformed}
    really = {numbered(payment, number): state for number in range(COPIES) for payment, state in truth.items()}
    wrong = {payment for payment, state in really.items() if states.get(payment) != state}
    assert wrong - seen == set()
    assert wrong, "no order did any harm"
    assert len(really.keys() - seen) > 2 * COPIES, "a person would have to look at nearly everything"


# ---- Content that the recipes do not know ---------------------------------------------------------

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
"""The fields without which nobody can tell what an event says, by its kind."""

GONE = object()


def content(event: dict[str, Any]) -> dict[str, Any]:
    """What says which kind an event is: the event itself at Stripe, what is wrapped in the webhook at Adyen."""
    if "notificationItems" not in event:
        return event
    item: dict[str, Any] = event["notificationItems"][0]["NotificationRequestItem"]
    return item


def moves_money(event: dict[str, Any]) -> bool:
    """Whether an event is of a kind that the recipes map, and not one that says that nothing happened, or a part."""
    item = content(event)
    charge = item.get("data", {}).get("object", {})
    return kind(event) in DECISIVE and (
        item.get("success") != "false" and charge.get("captured") is not False and charge.get("refunded") is not False
    )


def kind(event: dict[str, Any]) -> str:
    """What the PSP calls an event."""
    item = content(event)
    return str(item.get("eventCode") or item.get("type"))


def damages(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The event without one of its decisive fields, or with one that makes no sense."""
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


@pytest.mark.parametrize(("name", "dump"), [("stripe", STRIPE), ("adyen", ADYEN)], ids=["stripe", "adyen"])
def test_an_event_without_what_decides_is_listed_as_malformed(
    run_recipe: Callable[..., Finding], name: str, dump: str
) -> None:
    events = [json.loads(line) for line in dump.splitlines()]
    damaged = [each for event in events if moves_money(event) for each in damages(event)]
    count("events of a PSP's dump without a decisive field, through the README's recipes", len(damaged))
    found = run_recipe(name, "".join(json.dumps(each) + "\n" for each in damaged))
    assert [each for each in found.decisions if "error" not in each] == []
    assert len(found.decisions) >= len(damaged) > 100
    assert found.left_out == {}
    assert found.code == 3


@pytest.mark.parametrize(("name", "dump"), [("stripe", STRIPE), ("adyen", ADYEN)], ids=["stripe", "adyen"])
def test_a_dump_that_breaks_off_is_noticed_and_can_be_completed(
    run_recipe: Callable[..., Finding], sql: Sql, name: str, dump: str
) -> None:
    for broken in (dump[: len(dump) // 2], dump + "[]\n"):
        found = run_recipe(name, broken)
        assert "error" in found.stderr
        assert found.status != 0
    run_recipe(name, dump)
    told = [each for each in (STRIPE_TOLD if name == "stripe" else ADYEN_TOLD) if "expected" not in each]
    recorded = {tuple(each.split()[:3]) for each in told if not each.endswith(("duplicate_event", "event_id_conflict"))}
    assert {(entry[2], entry[0], entry[3]) for entry in contents(sql)["events"]} == recorded


# ---- What the README says of them -----------------------------------------------------------------


def test_every_kind_that_the_section_names_is_in_the_fixtures() -> None:
    named = set(re.findall(r"\b(?:payment_intent|charge|refund)\.[a-z]+(?:[._][a-z]+)*", SECTION))
    assert named
    assert named <= {kind(json.loads(line)) for line in STRIPE.splitlines()}
    codes = set(re.findall(r"\b[A-Z]{6,}(?:_[A-Z]+)*\b", SECTION))
    assert codes == set(re.findall(r'"eventCode": "(\w+)"', ADYEN)) - {"OFFER_CLOSED", "REPORT_AVAILABLE"}
