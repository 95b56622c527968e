"""The recipes for PSPs, run as their guide says, on dumps in the PSPs' own shapes.

A recipe and its sample dump share a name: `sample_events/psp/stripe.jq` and `stripe.jsonl`. The
dumps follow the PSPs' public API references. Their ids are invented. Each names its payment in a
word, such as `evt_3QinventedLamp4`, so that expected results are readable.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from payproc.explain import Malformed
from payproc.logic import Decision, State, classify
from payproc.schemas import PaymentEvent, parse_line
from tests.support.documents import ROOT

RECIPES = ROOT / "sample_events" / "psp"

needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the recipes use jq, which is not installed here")


class RecipeResult(NamedTuple):
    """The results of one run of a recipe."""

    code: int
    output: str
    """The events, one a line, as payproc gets them."""
    report: list[str]
    """The lines on stderr."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events as objects."""
        return [json.loads(line) for line in self.output.splitlines()]

    def decisions(self) -> list[tuple[PaymentEvent, Decision] | Malformed]:
        """Decide each event as payproc does, on empty books."""
        states: dict[str, State] = {}
        recorded: dict[str, PaymentEvent] = {}
        result: list[tuple[PaymentEvent, Decision] | Malformed] = []
        for line in self.output.splitlines():
            parsed = parse_line(line.encode())
            if isinstance(parsed, Malformed):
                result.append(parsed)
                continue
            event, _ = parsed
            state = states.get(event.payment_id, State.CREATED)
            decision = classify(event, recorded.get(event.event_id), state)
            recorded.setdefault(event.event_id, event)
            result.append((event, decision))
            states[event.payment_id] = decision.state_after
        return result

    def decide(self) -> tuple[list[str], dict[str, str]]:
        """Return a short line for each decision, to compare, and the state of each payment."""
        lines, states = [], {}
        for each in self.decisions():
            if isinstance(each, Malformed):
                lines.append(each.error)
                continue
            event, decision = each
            lines.append(f"{event.event_id} {event.payment_id} {event.type.value} {decision.reason.value}")
            states[event.payment_id] = decision.state_after.value
        return lines, states


def sample(name: str) -> str:
    """Return the sample dump of a PSP."""
    return (RECIPES / f"{name}.jsonl").read_text()


def run_recipe(name: str, dump: str | Iterable[Any], *options: str) -> RecipeResult:
    """Run a recipe with jq's options on a dump: a text, or messages to write one a line."""
    text = dump if isinstance(dump, str) else "".join(json.dumps(message) + "\n" for message in dump)
    finished = subprocess.run(
        ["jq", "-cf", RECIPES / f"{name}.jq", *options],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return RecipeResult(finished.returncode, finished.stdout.decode(), finished.stderr.decode().splitlines())
