"""Seven PSPs: kinds beyond their samples, such as a capture alone or a stale snapshot."""

import re
import resource
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.documents import OTHER_PSPS, ROOT, blocks, run_script
from tests.support.psp import needs_jq, run_recipe, sample

pytestmark = needs_jq


def checkout(payment: str, kind: str, **data: Any) -> dict[str, Any]:
    return {"id": f"evt_{payment}", "type": kind, "data": {"id": payment, "amount": 100, **data}}


def square(payment: str, **fields: Any) -> dict[str, Any]:
    money = {"amount": 100, "currency": "USD"}
    content = {"id": payment, "status": "COMPLETED", "amount_money": money, **fields}
    return {"type": "payment.updated", "event_id": "e", "data": {"object": {"payment": content}}}


def mollie(payment: str, status: str, **fields: Any) -> dict[str, Any]:
    amounts = {name: {"value": value, "currency": "EUR"} for name, value in fields.items() if isinstance(value, str)}
    content = {"resource": "payment", "id": payment, "status": status, "amount": {"value": "1.00", "currency": "EUR"}}
    return content | fields | amounts


def gocardless_event(event: str, action: str) -> dict[str, Any]:
    return {"id": event, "resource_type": "payments", "action": action, "links": {"payment": "PM1"}}


def gocardless(event: str, action: str, **details: Any) -> dict[str, Any]:
    return {"events": [gocardless_event(event, action) | {"details": details}]}


def razorpay(kind: str, **entities: Any) -> dict[str, Any]:
    return {"event": kind, "payload": {name: {"entity": content} for name, content in entities.items()}}


def shopify(number: int, kind: str, parent: int | None = None, **fields: Any) -> dict[str, Any]:
    content = {"id": number, "kind": kind, "status": "success", "parent_id": parent, "order_id": 1, "amount": "1.00"}
    return content | fields


def paypal(transaction: str, kind: str, authorization: str | None = None, **fields: Any) -> dict[str, Any]:
    related = {"supplementary_data": {"related_ids": {"authorization_id": authorization}}}
    content = {"id": transaction, "amount": {"value": "1.00", "currency_code": "USD"}, **related, **fields}
    return {"id": f"WH-{transaction}", "event_type": kind, "resource_type": "capture", "resource": content}


KINDS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "checkout": [
        ("refund without balances", checkout("p1", "payment_refunded"), "evt_p1:flag p1 flag"),
        (
            "void of the rest",
            checkout("p2", "payment_voided", balances={"total_captured": 60, "available_to_capture": 0}),
            "evt_p2:flag p2 flag",
        ),
        ("void without balances", checkout("p3", "payment_voided"), "evt_p3:fail p3 fail"),
        ("unknown kind", checkout("p4", "payment_returned"), "evt_p4:flag p4 flag"),
        ("capture alone", checkout("p5", "payment_captured"), "p5:authorize p5 authorize, evt_p5:capture p5 capture"),
    ],
    "square": [
        ("automatic capture", square("p1"), "p1:authorize p1 authorize, p1:capture p1 capture"),
        ("the same once more", square("p1"), ""),
        ("stale snapshot", square("p1", status="APPROVED"), ""),
        ("unknown status", square("p2", status="HELD"), "p2:HELD:flag p2 flag"),
        (
            "list of payments",
            {"payments": [square("p3")["data"]["object"]["payment"]]},
            "p3:authorize p3 authorize, p3:capture p3 capture",
        ),
    ],
    "mollie": [
        (
            "unknown object of a payment",
            {"resource": "unheard-of", "id": "x_1", "paymentId": "tr_3"},
            "x_1:unheard-of:unknown:flag tr_3 flag",
        ),
        ("authorized", mollie("tr_1", "authorized"), "tr_1:authorize tr_1 authorize"),
        ("part captured", mollie("tr_1", "authorized", amountCaptured="0.40"), "tr_1:capture tr_1 capture"),
        ("nothing remaining", mollie("tr_1", "paid", amountRemaining="0.00"), "tr_1:refund tr_1 refund"),
        (
            "embedded refund that failed",
            mollie(
                "tr_2",
                "open",
                _embedded={"refunds": [{"resource": "refund", "id": "re_1", "status": "failed", "paymentId": "tr_2"}]},
            ),
            "re_1:failed:flag tr_2 flag",
        ),
    ],
    "gocardless": [
        ("unknown type", {**gocardless_event("EV4", "x"), "resource_type": "unheard_of"}, "EV4:flag PM1 flag"),
        ("origin of a payment", {**gocardless_event("EV5", "payment_created"), "resource_type": "subscriptions"}, ""),
        ("failure with a retry", gocardless("EV1", "failed", will_attempt_retry=True), ""),
        ("failure", gocardless("EV2", "failed"), "EV2:fail PM1 fail"),
        ("retry all the same", gocardless("EV3", "resubmission_requested"), "EV3:flag PM1 flag"),
    ],
    "razorpay": [
        ("unknown kind", razorpay("unheard_of.done", payment={"id": "pay_4"}), "unheard_of.done:pay_4:flag pay_4 flag"),
        ("order with a payment", razorpay("order.unheard_of", payment={"id": "pay_4"}), ""),
        (
            "capture told by its order",
            razorpay("order.paid", payment={"id": "pay_1", "amount": 100, "captured": True}),
            "payment.authorized:pay_1 pay_1 authorize, payment.captured:pay_1 pay_1 capture",
        ),
        (
            "released authorization",
            razorpay(
                "refund.processed",
                payment={"id": "pay_2", "amount": 100, "amount_refunded": 100, "captured": False},
                refund={"id": "rfnd_2", "payment_id": "pay_2"},
            ),
            "payment.refunded:pay_2 pay_2 fail",
        ),
        (
            "refund without its payment",
            razorpay("refund.processed", refund={"id": "rfnd_3", "payment_id": "pay_3"}),
            "refund.processed:rfnd_3:flag pay_3 flag",
        ),
    ],
    "shopify": [
        ("not yet authorized", shopify(8, "authorization", status="awaiting_response"), ""),
        ("unknown status", shopify(9, "authorization", status="unheard_of"), "9:flag 9 flag"),
        (
            "EventBridge",
            {"detail-type": "shopifyWebhook", "detail": {"metadata": {}, "payload": shopify(1, "authorization")}},
            "1:authorize 1 authorize",
        ),
        ("capture alone", shopify(3, "capture", 2), "2:authorize 2 authorize, 3:capture 2 capture"),
        ("its refund", shopify(4, "refund", 3), "4:refund 2 refund"),
        ("one refund more", shopify(5, "refund", 3), "5:flag 2 flag"),
        ("capture of nothing", shopify(7, "capture"), "7:flag 7 flag"),
        ("void that failed", shopify(6, "void", 1, status="failure"), "6:flag 1 flag"),
    ],
    "paypal": [
        ("unknown kind", paypal("X1", "UNHEARD.OF", "A4"), "WH-X1:flag A4 flag"),
        ("order of a payment", paypal("O1", "CHECKOUT.ORDER.COMPLETED", "A4"), ""),
        (
            "capture alone",
            paypal("C1", "PAYMENT.CAPTURE.COMPLETED", "A1"),
            "A1:authorize A1 authorize, C1:capture A1 capture",
        ),
        ("declined capture", paypal("C2", "PAYMENT.CAPTURE.DECLINED", "A2"), "WH-C2:flag A2 flag"),
        ("under review", paypal("A3", "PAYMENT.AUTHORIZATION.CREATED", status="PENDING"), "WH-A3:flag A3 flag"),
        ("dispute of nothing", paypal("D1", "CUSTOMER.DISPUTE.CREATED"), ""),
    ],
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_mapped(name: str) -> None:
    found = run_recipe(name, [message for _, message, _ in KINDS[name]])
    lines = [f"{each['event_id']} {each['payment_id']} {each['type']}" for each in found.events]
    assert lines == [line for _, _, expected in KINDS[name] for line in expected.split(", ") if line]
    assert (found.code, found.report[1:]) == (
        0,
        ["paypal.jq: LEFT OUT 1: CUSTOMER.DISPUTE.CREATED, which names no payment"] if name == "paypal" else [],
    )


def test_refund_that_no_payment_shows_is_named() -> None:
    """Mollie's payment has to be fetched again, or it would look captured."""
    refunds = [{"resource": "refund", "id": f"re_{each}", "status": "refunded", "paymentId": each} for each in "12"]
    payment = mollie("1", "paid", amountRefunded="1.00")
    charged_back = mollie("2", "paid", amountRefunded="0.00", amountChargedBack="1.00")
    for dump in ([payment, charged_back, *refunds], [*refunds, payment, charged_back]):
        assert run_recipe("mollie", dump).report == [
            "mollie.jq: 6 events printed, 2 messages left out: 1 refund refunded",
            "mollie.jq: LEFT OUT 1: refund refunded, of a payment that shows no refund; fetch the payment again",
        ]


def test_rounded_ids_are_left_out() -> None:
    """jq 1.6 makes one payment of two. Later ones keep long numbers as they are."""
    found = run_recipe("shopify", [shopify(2**53 + number, "sale") for number in (1, 2)])
    exact = [f"{2**53 + number}:{step}" for number in (1, 2) for step in ("authorize", "capture")]
    assert [each["event_id"] for each in found.events] in ([], exact)
    left_out = [line for line in found.report if "ids over 2^53, which this jq rounds; use jq 1.7" in line]
    assert len(left_out) == (0 if found.events else 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkout", {"id": "evt_1", "type": "dispute_received", "data": {"id": "dsp_1"}}),
        ("square", {"type": "dispute.created", "event_id": "e", "data": {"object": {"dispute": {"id": "d_1"}}}}),
        ("shopify", {"id": 1, "type": "chargeback", "status": "lost", "order_id": None}),
        ("paypal", {"id": "WH-1", "event_type": "UNHEARD.OF", "resource": {"amount": {"value": "1.00"}}}),
    ],
)
def test_money_of_no_payment_is_named(name: str, message: dict[str, Any]) -> None:
    found = run_recipe(name, [message])
    assert (found.code, found.events, len(found.report)) == (0, [], 2)
    assert re.search(r"LEFT OUT 1: .*, which names no (payment|order)$", found.report[1])


@pytest.mark.parametrize(("name", "cut"), [("square", 8), ("shopify", 6), ("paypal", 8)])
def test_events_on_record_are_known(name: str, cut: int) -> None:
    """The events of an earlier dump may go first, for example from `payproc export`."""
    lines = sample(name).splitlines(keepends=True)
    first = run_recipe(name, "".join(lines[:cut]))
    second = run_recipe(name, first.output + "".join(lines[cut:]))
    assert first.output + second.output == run_recipe(name, sample(name)).output


WORDS = r"(?i)Lamp|Bike|Room|Sofa|Desk|Coat|Book|Wine|Ring|invented|\b50(?=\d\d\b)"
"""Parts of the ids in the samples."""


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_time_grows_with_the_dump(name: str) -> None:
    """And not with its square: jq copies the state unless the recipe takes care."""

    def seconds(copies: int) -> float:
        dump = "".join(re.sub(WORDS, rf"\g<0>{number}", sample(name)) for number in range(copies))
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert run_recipe(name, dump).code == 0
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    # Other work on the same core makes a run longer, so one undisturbed measurement is enough.
    assert any(seconds(600) < 10 * seconds(100) for _ in range(5))


def test_page_runs_as_printed(payproc: Payproc) -> None:
    """Its commands run where the samples are, and make a recipe of their own."""
    (payproc.folder / "sample_events").symlink_to(ROOT / "sample_events")
    finished = run_script("".join(blocks(OTHER_PSPS, "sh")), payproc.folder, payproc.environment)
    assert finished.returncode == 0, finished.stderr
    square, number, acme = re.split(r"(^389404469112233445$)", finished.stdout, flags=re.MULTILINE)
    assert "16 events" in square
    assert number
    assert "3 events" in acme
    assert acme.endswith("6 events need review; run payproc review\n")
    assert "acme.jq: 3 events printed, 2 messages left out: 1 payment.attempt_failed\n" in finished.stderr
    assert "acme.jq: LEFT OUT 1: test-mode events" in finished.stderr
