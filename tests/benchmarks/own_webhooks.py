"""Stories as messages of a PSP without a recipe, which captures automatically and says `paid`.

The mapping one to one makes `paid` a capture alone, whose authorization is missing. The pair makes
it an authorization and a capture.
"""

from collections.abc import Iterator

from deliveries import Webhook
from payment_stories import Story

ONE_TO_ONE = """
{event_id: .id, payment_id: .payment, type: {paid: "capture", cancelled: "fail", refunded: "refund",
    partly_refunded: "flag", refund_failed: "flag", disputed: "flag"}[.status]}"""
"""A jq program."""

PAIR = f"""{ONE_TO_ONE}
| if .type == "capture" then ("authorize", "capture") as $type | .event_id += ":" + $type | .type = $type else . end"""
"""The same with the pair."""


def states(story: Story) -> dict[str, str]:
    """Return the true state of the payment of a story, by its id."""
    return {f"tr_{story.key}": story.state}


def webhooks(story: Story) -> Iterator[Webhook]:
    """Yield all messages about a story."""
    for number, (at, status) in enumerate(sorted(_messages(story))):
        yield Webhook(at, {"id": f"ev_{story.key}{number}", "payment": f"tr_{story.key}", "status": status})


def _messages(story: Story) -> Iterator[tuple[float, str]]:
    if story.cancelled_at is not None:
        yield story.cancelled_at, "cancelled"
    if story.captured_at is not None:
        yield story.captured_at, "paid"
    for refund in story.refunds:
        yield refund.at, "refunded" if story.refunded_at(refund.at) == story.amount else "partly_refunded"
        if refund.fails_at is not None:
            yield refund.fails_at, "refund_failed"
    if story.disputed_at is not None:
        yield story.disputed_at, "disputed"
