"""The stories of the benchmarks agree with the independent model, through the recipes.

In order, every payment ends in its true state, or it has a flag. In any other order, a payment in
another state has a pending review or a rejected event.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from deliveries import WAYS, Way, deliver
from reviews import PSPS, Psp
from tests.support.model import Fact, Line, Model, Source
from tests.support.tally import count

PAYMENTS = 1000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("jq") is None, reason="the recipes use jq, which is not installed here"),
    pytest.mark.parametrize("psp", PSPS, ids=lambda psp: psp.name),
]


def ingest(psp: Psp, files: Iterable[list[str]], folder: Path) -> Model:
    """Return the model's records after the files, each through the PSP's recipe."""
    model = Model()
    dump = folder / "dump.jsonl"
    for lines in files:
        dump.write_text("\n".join(lines))
        mapped = subprocess.run(["jq", *psp.program, dump], stdout=subprocess.PIPE, check=True).stdout.splitlines()
        facts = [Fact(*map(json.loads(line).__getitem__, Fact._fields)) for line in mapped]
        model.ingest([Source("dump", [Line(line, fact) for line, fact in zip(mapped, facts, strict=True)])])
        count("webhooks of invented payments, through the recipes and the model", len(lines))
    return model


def seen(model: Model) -> dict[str, set[str]]:
    """Return the reasons of the reviews and rejections of each payment."""
    found: dict[str, set[str]] = {}
    for entry in [*model.recorded.values(), *model.conflicts.values()]:
        if entry.get("outcome", "REJECT") in ("MANUAL_REVIEW", "REJECT"):
            found.setdefault(entry["payment_id"], set()).add(entry.get("reason", "event_id_conflict"))
    return found


def wrong_payments(psp: Psp, model: Model) -> set[str]:
    """Return the payments whose state is not the true one. All payments of the model exist."""
    truth = {payment_id: state for story in psp.stories(PAYMENTS) for payment_id, state in psp.states(story).items()}
    assert {"captured", "refunded", "failed"} <= set(truth.values())
    assert set(model.histories) <= set(truth)
    return {payment_id for payment_id, state in truth.items() if model.state(payment_id) != state}


def test_stories_in_order_end_truly(psp: Psp, tmp_path: Path) -> None:
    """Or the payment has a flag, or was refused before.

    Mapped one to one, an automatic capture has no predecessor.
    """
    webhooks = [webhook for story in psp.stories(PAYMENTS) for webhook in psp.webhooks(story)]
    webhooks.sort(key=lambda webhook: webhook.at)
    model = ingest(psp, [[json.dumps(webhook.body) for webhook in webhooks]], tmp_path)
    reasons = seen(model)
    expected = {"flagged", "authorize_after_failure", "predecessor_missing" if "one to one" in psp.name else ""}
    assert {each for each in wrong_payments(psp, model) if not reasons.get(each, set()) & expected} == set()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_delivery_is_never_silently_wrong(psp: Psp, way: Way, tmp_path: Path) -> None:
    webhooks = [webhook for story in psp.stories(PAYMENTS) for webhook in psp.webhooks(story)]
    model = ingest(psp, deliver(webhooks, way, psp.name + way.name), tmp_path)
    assert wrong_payments(psp, model) <= set(seen(model))
