"""Stories as notifications of Adyen, with a CAPTURE for each capture.

Each attempt has a reference of its own, so a declined one is a payment that fails. Rarely Adyen
corrects a refusal under the same reference. A REFUND does not say how much remains.
"""

import time
from collections.abc import Iterator
from typing import Any

from deliveries import Webhook
from payment_stories import Story

RECIPE = "adyen.jq"


def states(story: Story) -> dict[str, str]:
    """Return the true state of each payment of a story, by its id."""
    states = {_reference("D", story): "failed"} if story.is_declined else {}
    return states if story.authorized_at is None else {**states, _reference("A", story): story.state}


def webhooks(story: Story) -> Iterator[Webhook]:
    """Yield all notifications about a story."""
    authorization = _reference("A", story)
    if story.is_declined:
        yield _item(story, story.begins_at + 10, "AUTHORISATION", _reference("D", story), success=False)
    if story.is_corrected:
        yield _item(story, story.begins_at + 10, "AUTHORISATION", authorization, success=False)
    if story.authorized_at is not None:
        yield _item(story, story.authorized_at, "AUTHORISATION", authorization)
    if story.cancelled_at is not None and story.authorized_at is not None:
        yield _item(story, story.cancelled_at, "CANCELLATION", _reference("X", story), authorization)
    capture = _reference("C", story)
    if story.captured_at is not None:
        yield _item(story, story.captured_at, "CAPTURE", capture, authorization)
    if story.capture_fails_at is not None:
        yield _item(story, story.capture_fails_at, "CAPTURE_FAILED", capture, authorization)
    for number, refund in enumerate(story.refunds):
        reference = _reference(f"{number}", story)
        yield _item(story, refund.at, "REFUND", reference, authorization, amount=refund.amount)
        if refund.fails_at is not None:
            yield _item(story, refund.fails_at, "REFUND_FAILED", reference, authorization, amount=refund.amount)
    if story.disputed_at is not None:
        dispute = _reference("P", story)
        yield _item(story, story.disputed_at, "NOTIFICATION_OF_CHARGEBACK", dispute, authorization)
        yield _item(story, story.disputed_at + 100, "CHARGEBACK", dispute, authorization)


def _item(
    story: Story,
    at: float,
    code: str,
    reference: str,
    original: str | None = None,
    *,
    success: bool = True,
    amount: int | None = None,
) -> Webhook:
    item: dict[str, Any] = {
        "additionalData": {"hmacSignature": "aW52ZW50ZWQtc2lnbmF0dXJl", "cardSummary": "1111", "expiryDate": "03/2030"},
        "amount": {"currency": "EUR", "value": story.amount if amount is None else amount},
        "eventCode": code,
        "eventDate": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at)),
        "merchantAccountCode": "InventedShopECOM",
        "merchantReference": f"order-{story.key[:6]}",
        "paymentMethod": "visa",
        "pspReference": reference,
        "reason": "" if success else "Refused",
        "success": str(success).lower(),
    }
    if original is not None:
        item["originalReference"] = original
    return Webhook(at, {"live": "true", "notificationItems": [{"NotificationRequestItem": item}]})


def _reference(kind: str, story: Story) -> str:
    """Return one of Adyen's references of 16 characters."""
    return f"{kind}{story.key[1:]}"
