"""Stories as events of Stripe, in the shape of its webhooks.

A PaymentIntent survives a declined attempt. An automatic capture has no event of its own. A
failed refund is reported by two events.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from deliveries import Webhook
from payment_stories import Story

API_VERSION = "2025-08-27.basil"

RECIPE = "stripe.jq"


def states(story: Story) -> dict[str, str]:
    """Return the true state of each payment of a story, by its id."""
    return {_id("pi", story): story.state}


def webhooks(story: Story) -> Iterator[Webhook]:
    """Yield all events about a story, in their order."""
    for number, (at, event_type, content) in enumerate(sorted(_events(story), key=lambda event: event[0])):
        body = {
            "id": f"evt_3{story.key}{number:02}",
            "object": "event",
            "api_version": API_VERSION,
            "created": int(at),
            "data": {"object": content},
            "livemode": True,
            "pending_webhooks": 1,
            "request": {"id": f"req_{story.key}{number:02}", "idempotency_key": f"{story.key}-{number}"},
            "type": event_type,
        }
        yield Webhook(at, body)


Event = tuple[float, str, dict[str, Any]]
"""A moment, a type, and the object that the event is about."""


def _events(story: Story) -> Iterator[Event]:
    yield story.begins_at, "payment_intent.created", _intent(story, "requires_payment_method")
    if story.is_declined:
        declined = story.begins_at + 10
        yield declined, "charge.failed", _charge(story, declined, status="failed", captured=False)
        yield declined, "payment_intent.payment_failed", _intent(story, "requires_payment_method")
    if story.authorized_at is not None:
        yield story.authorized_at, "charge.succeeded", _charge(story, story.authorized_at, captured=not story.is_manual)
        if story.is_manual:
            intent = _intent(story, "requires_capture", capturable=story.amount)
            yield story.authorized_at, "payment_intent.amount_capturable_updated", intent
    if story.cancelled_at is not None:
        yield story.cancelled_at, "payment_intent.canceled", _intent(story, "canceled")
    if story.captured_at is not None:
        if story.is_manual:
            yield story.captured_at, "charge.captured", _charge(story, story.captured_at)
        yield story.captured_at, "payment_intent.succeeded", _intent(story, "succeeded", received=story.amount)
    yield from itertools.chain(_refund_events(story), _dispute_events(story))


def _refund_events(story: Story) -> Iterator[Event]:
    for number, refund in enumerate(story.refunds):
        content = {
            **_object("re", story, "refund", amount=refund.amount),
            "id": f"{_id('re', story)}{number}",
            "charge": _id("ch", story),
            "payment_intent": _id("pi", story),
            "reason": "requested_by_customer",
        }
        yield refund.at, "refund.created", {**content, "status": "pending"}
        yield refund.at, "charge.refunded", _charge(story, refund.at)
        yield refund.at + 5, "refund.updated", {**content, "status": "succeeded"}
        if refund.fails_at is not None:
            failed = {**content, "status": "failed", "failure_reason": "expired_or_canceled_card"}
            yield refund.fails_at, "refund.failed", failed
            yield refund.fails_at, "charge.refund.updated", failed


def _dispute_events(story: Story) -> Iterator[Event]:
    if story.disputed_at is None:
        return
    content = {
        **_object("dp", story, "dispute"),
        "charge": _id("ch", story),
        "payment_intent": _id("pi", story),
        "reason": "fraudulent",
    }
    yield story.disputed_at, "charge.dispute.created", {**content, "status": "needs_response"}
    yield story.disputed_at + 1, "charge.dispute.funds_withdrawn", {**content, "status": "needs_response"}
    yield story.disputed_at + 100, "charge.dispute.closed", {**content, "status": "lost"}


def _intent(story: Story, status: str, capturable: int = 0, received: int = 0) -> dict[str, Any]:
    return {
        **_object("pi", story, "payment_intent"),
        "amount_capturable": capturable,
        "amount_received": received,
        "canceled_at": None,
        "capture_method": "manual" if story.is_manual else "automatic_async",
        "confirmation_method": "automatic",
        "customer": None,
        "payment_method_types": ["card"],
        "status": status,
    }


def _charge(story: Story, at: float, status: str = "succeeded", captured: bool = True) -> dict[str, Any]:
    """Return the charge as it is at a moment."""
    refunded = story.refunded_at(at)
    return {
        **_object("ch", story, "charge"),
        "amount_captured": story.amount if captured else 0,
        "amount_refunded": refunded,
        "captured": captured,
        "disputed": False,
        "paid": status == "succeeded",
        "payment_intent": _id("pi", story),
        "payment_method_details": {"card": {"brand": "visa", "country": "NL", "last4": "4242"}, "type": "card"},
        "refunded": refunded == story.amount,
        "status": status,
    }


def _object(prefix: str, story: Story, kind: str, amount: int | None = None) -> dict[str, Any]:
    return {
        "id": _id(prefix, story),
        "object": kind,
        "amount": story.amount if amount is None else amount,
        "created": int(story.begins_at),
        "currency": "eur",
        "livemode": True,
        "metadata": {"order": story.key[:6]},
    }


def _id(prefix: str, story: Story) -> str:
    return f"{prefix}_3{story.key}"
