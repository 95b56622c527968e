"""Every recipe reads, counts and reports in the same way."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.psp import RECIPES, RecipeResult, needs_jq, run_recipe

pytestmark = needs_jq

COMMON = "# ---- The same in every recipe"

AUTHORIZED = {
    "id": "evt_2",
    "object": "event",
    "created": 1795514500,
    "livemode": True,
    "type": "payment_intent.amount_capturable_updated",
    "data": {"object": {"id": "pi_1", "object": "payment_intent", "amount": 100}},
}
CAPTURED = {
    "id": "evt_3",
    "object": "event",
    "created": 1795514600,
    "livemode": True,
    "type": "payment_intent.succeeded",
    "data": {"object": {"id": "pi_1", "object": "payment_intent", "capture_method": "manual", "amount": 100}},
}


def run(*messages: Any, options: tuple[str, ...] = ()) -> RecipeResult:
    return run_recipe("stripe", messages, *options)


def test_recipes_share_their_common_part() -> None:
    """If this fails, copy the end of one recipe to the others."""
    parts = {path.name: path.read_text().partition(COMMON)[2] for path in RECIPES.glob("*.jq")}
    assert set(parts.values()) == {parts["stripe.jq"]}
    assert parts["stripe.jq"]


def eventbridge(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "7f6c1d5e-0000-4000-8000-000000000001",
        "detail-type": event["type"],
        "source": "aws.partner/stripe.com/ed_invented",
        "account": "000000000000",
        "detail": event,
    }


def base64(event: dict[str, Any]) -> str:
    return b64encode(json.dumps(event).encode()).decode()


ENVELOPES: dict[str, Callable[[dict[str, Any], dict[str, Any]], list[Any]]] = {
    "lines": lambda first, second: [first, second],
    "array": lambda first, second: [[first, second]],
    "array, newest first": lambda first, second: [[second, first]],
    "page of a list": lambda first, second: [{"object": "list", "data": [second, first], "has_more": False}],
    "EventBridge": lambda first, second: [eventbridge(first), eventbridge(second)],
    "SQS": lambda first, second: [{"Messages": [{"Body": json.dumps(each)} for each in (first, second)]}],
    "SQS to Lambda": lambda first, second: [{"Records": [{"body": json.dumps(each)} for each in (first, second)]}],
    "EventBridge in SQS": lambda first, second: [{"Body": json.dumps(eventbridge(each))} for each in (first, second)],
    "SNS": lambda first, second: [{"Type": "Notification", "Message": json.dumps(each)} for each in (first, second)],
    "log of requests": lambda first, second: [{"headers": {}, "body": each} for each in (first, second)],
    "pages of a list": lambda first, second: [[{"object": "list", "data": [each]} for each in (second, first)]],
    "EventBridge, newest first": lambda first, second: [[eventbridge(second), eventbridge(first)]],
    "SNS to Lambda": lambda first, second: [
        {"Records": [{"Sns": {"Message": json.dumps(each)}}]} for each in (first, second)
    ],
    "API Gateway": lambda first, second: [{"body": base64(each), "isBase64Encoded": True} for each in (first, second)],
    "Kafka": lambda first, second: [{"topic": "t", "value": json.dumps(first)}, {"topic": "t", "payload": second}],
    "Kafka Connect": lambda first, second: [{"schema": None, "payload": each} for each in (first, json.dumps(second))],
    "CloudEvents": lambda first, second: [{"specversion": "1.0", "data": each} for each in (first, second)],
    "JSON in strings": lambda first, second: [json.dumps(first), json.dumps([second])],
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_envelopes_are_opened(name: str) -> None:
    found = run(*ENVELOPES[name](AUTHORIZED, CAPTURED))
    assert [each["event_id"] for each in found.events] == ["evt_2", "evt_3"]
    assert (found.code, found.report) == (0, ["stripe.jq: 2 events printed, 0 messages left out"])


def test_message_over_many_lines_is_read() -> None:
    text = "\n\n".join(json.dumps(each, indent=2) for each in (AUTHORIZED, CAPTURED))
    assert len(run_recipe("stripe", text).events) == 2


def test_foreign_message_stops_nothing() -> None:
    """And no field of another type does."""
    odd: list[Any] = [
        None,
        1,
        "text",
        [],
        [[]],
        {},
        [None],
        [AUTHORIZED, 1],
        [1, AUTHORIZED],
        {"data": 1, "type": "x"},
        {"object": "list", "data": 7},
    ]
    odd += [{"detail-type": "x", "detail": 3}, {"Body": "{"}, {"Records": {}}, {"type": 5}]
    for event in (AUTHORIZED, CAPTURED):
        nothing: tuple[Any, ...] = (None, 7, "", [], {})
        odd += [{**event, key: value} for key in ("object", "type", "data", "livemode") for value in nothing]
        content: dict[str, Any] = event["data"]["object"]  # type: ignore[index]
        odd += [{**event, "data": {"object": {**content, "object": value}}} for value in nothing]
    found = run(AUTHORIZED, *odd, CAPTURED)
    assert found.code == 0
    assert (found.events[0]["event_id"], found.events[-1]["event_id"]) == ("evt_2", "evt_3")
    assert found.report[0].startswith(f"stripe.jq: {len(found.events)} events printed")
    messages = found.report[0].partition(" printed, ")[2].partition(" ")[0]
    assert int(messages) + len(found.events) == len(odd) + 2  # two are empty, two hold two
    assert [line for line in found.report if line.endswith(" not a Stripe event")]


def test_kinds_left_out_are_counted() -> None:
    kinds = [{**CAPTURED, "type": f"customer.{number}\x1b[2J\n{'x' * 200}"} for number in range(22)]
    found = run(*kinds, *[{**CAPTURED, "type": "customer.created"}] * 3, {"type": "x"})
    first, last = found.report
    assert first.startswith("stripe.jq: 0 events printed, 26 messages left out: 3 customer.created, 1 customer.")
    assert first.endswith(", 3 more kinds")
    assert first.isprintable()
    assert len(first) < 3000
    assert last == "stripe.jq: LEFT OUT 1: not a Stripe event"


def test_test_mode_is_left_out_loudly() -> None:
    events = [AUTHORIZED, {**CAPTURED, "livemode": False}]
    found = run(*events)
    assert [each["event_id"] for each in found.events] == ["evt_2"]
    assert found.report[-1] == "stripe.jq: LEFT OUT 1: test-mode events; --arg mode test takes them, and only them"
    found = run(*events, options=("--arg", "mode", "test"))
    assert [each["event_id"] for each in found.events] == ["evt_3"]
    assert found.report[-1] == "stripe.jq: LEFT OUT 1: live events, because of --arg mode test"


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.jq")))
def test_unknown_option_is_an_error(name: str) -> None:
    for option, value in (("mode", "tset"), ("moed", "test")):
        found = run_recipe(name, [AUTHORIZED, CAPTURED], "--arg", option, value)
        assert (found.code, found.output) == (2, "")
        (line,) = found.report
        assert line.startswith(f"{name}.jq: unknown --arg {option} {value}, expected --arg mode live")


@pytest.mark.parametrize("damage", ['{"a":,}', "[1", '"', "}", "foo"])
def test_damaged_message_ends_the_run(damage: str) -> None:
    """Also in jq 1.6, which would go on behind it and end with exit code 0."""
    lines = [json.dumps(AUTHORIZED), damage, json.dumps(CAPTURED), "{", json.dumps(CAPTURED)]
    found = run_recipe("stripe", "\n".join(lines))
    assert [each["event_id"] for each in found.events] == ["evt_2"]
    assert found.code == 5
    (line,) = found.report
    assert line.startswith("stripe.jq: stopped at a message that is not JSON (")
    assert line.endswith("; mend it and run all again. All printed events are right")


def test_damaged_first_message_ends_the_run() -> None:
    """jq itself reports it."""
    found = run_recipe("stripe", '{"a":,}\n' + json.dumps(AUTHORIZED))
    assert found.code != 0
    assert (found.output, len(found.report)) == ("", 1)


def test_events_on_record_are_not_printed() -> None:
    """The export of payproc may go first."""
    found = run(AUTHORIZED)
    again = run(*found.events, CAPTURED)
    assert [each["event_id"] for each in again.events] == ["evt_3"]
    assert again.report == ["stripe.jq: 1 events printed, 0 messages left out"]
