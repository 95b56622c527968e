"""Reviews: the events that need a person, on the webhooks of a day, and those that remain.

Each stream goes through the recipe of its PSP into an empty database. Then `resolve --all
--legal-now` applies the late events. Every payment's state is compared with its true one, before
and after. A wrong one without a pending review or a rejected event ends the run with an error,
because nobody would see it.
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import adyen_webhooks
import own_webhooks
import stripe_webhooks
from deliveries import WAYS, Way, Webhook, deliver
from harness import BenchServer
from payment_stories import Story, tell
from payproc_process import COMMAND, environment, start_empty

RECIPES = Path(__file__).parents[2] / "sample_events" / "psp"

FLAGGED = "flagged"
"""The reason of flags. A person has to see these in any order, so they are counted apart."""


class Psp(NamedTuple):
    """A PSP, the way its shop captures, and the jq program for its webhooks."""

    name: str
    program: Sequence[str]
    webhooks: Callable[[Story], Iterator[Webhook]]
    states: Callable[[Story], dict[str, str]]
    manual_share: float = 0.0
    captures_can_fail: bool = False

    def stories(self, payments: int) -> Iterator[Story]:
        """Return the stories of a day. They are the same in each of its streams."""
        return tell(payments, self.manual_share, self.name, captures_can_fail=self.captures_can_fail)


def _stripe(name: str, manual_share: float) -> Psp:
    program = ("-cf", str(RECIPES / stripe_webhooks.RECIPE))
    return Psp(name, program, stripe_webhooks.webhooks, stripe_webhooks.states, manual_share)


def _own(name: str, program: str) -> Psp:
    return Psp(name, ("-c", program), own_webhooks.webhooks, own_webhooks.states)


PSPS = (
    _stripe("Stripe, automatic capture", 0.0),
    _stripe("Stripe, 20 % manual capture", 0.2),
    _stripe("Stripe, manual capture", 1.0),
    Psp(
        "Adyen with CAPTURE",
        ("-cf", str(RECIPES / adyen_webhooks.RECIPE)),
        adyen_webhooks.webhooks,
        adyen_webhooks.states,
        manual_share=1.0,
        captures_can_fail=True,
    ),
    _own("a PSP of your own, `paid` mapped to the pair", own_webhooks.PAIR),
    _own("a PSP of your own, `paid` mapped one to one", own_webhooks.ONE_TO_ONE),
)


class Queue(NamedTuple):
    """The pending reviews by reason, without flags, and how many are legal now."""

    reasons: Counter[str]
    flags: int
    legal_now: int

    @property
    def reviews(self) -> int:
        return self.reasons.total()


class Stream(NamedTuple):
    """The result of one stream."""

    webhooks: int
    events: int
    rejected: int
    before: Queue
    after: Queue
    wrong: int
    """Payments in a wrong state at the end. Each has a pending review or a rejected event."""


def measure_reviews(bench: BenchServer, folder: Path, payments: int) -> None:
    """Run all streams; print a line for each, and the table of the guide."""
    if shutil.which("jq") is None:
        raise SystemExit("the recipes use jq, which is not installed here")
    print(f"\n{payments:,} payments a stream; reviews without flags → after resolve --all --legal-now\n", flush=True)
    rows = []
    for psp in PSPS:
        streams = []
        for way in WAYS:
            stream = run_stream(bench, folder, psp, way, payments)
            print(_describe(psp, way, stream), flush=True)
            streams.append(stream)
        cells = [f"{stream.before.reviews:,} → {stream.after.reviews:,}" for stream in streams]
        fewest, *_, most = sorted(stream.before.flags for stream in streams)
        rows.append([psp.name, *cells, f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"])
    header = ["stream", *(way.name for way in WAYS), "flags"]
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]))


def run_stream(bench: BenchServer, folder: Path, psp: Psp, way: Way, payments: int) -> Stream:
    """Ingest a day's webhooks into an empty database through the recipe; resolve the legal events.

    Exits if anything fails, or if a payment is wrong and nobody sees it.
    """
    start_empty(bench)
    stories = list(psp.stories(payments))
    truth = {payment_id: state for story in stories for payment_id, state in psp.states(story).items()}
    webhooks = [webhook for story in stories for webhook in psp.webhooks(story)]
    totals: Counter[str] = Counter()
    for lines in deliver(webhooks, way, psp.name + way.name):
        dump = folder / "webhooks.jsonl"
        dump.write_text("".join(f"{line}\n" for line in lines))
        summary = _ingest(bench, psp.program, dump)
        totals.update(webhooks=len(lines), events=summary["events"], rejected=summary["outcomes"].get("REJECT", 0))
    before = _queue(bench)
    _wrong_payments(bench, truth, f"{psp.name}, {way.name}, before resolve")
    resolve = ("resolve", "--all", "--legal-now", "--apply", "--note", "late", "--by", "alice", "--yes")
    while before.legal_now and _one(bench, *resolve)["resolved"]:
        pass
    after = _queue(bench)
    wrong = _wrong_payments(bench, truth, f"{psp.name}, {way.name}, after resolve")
    _one(bench, "verify")
    return Stream(totals["webhooks"], totals["events"], totals["rejected"], before, after, wrong)


def _ingest(bench: BenchServer, program: Sequence[str], dump: Path) -> dict[str, Any]:
    """Return the summary of a dump's ingest."""
    command = [COMMAND, "ingest", "-", "--quiet", "--format", "json"]
    with subprocess.Popen(["jq", *program, dump], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as jq:
        ingest = subprocess.run(command, env=environment(bench), stdin=jq.stdout, stdout=subprocess.PIPE, check=False)
        assert jq.stderr is not None
        said = jq.stderr.read()
    if jq.returncode or ingest.returncode:
        raise SystemExit(f"jq ended with {jq.returncode}, payproc ingest with {ingest.returncode}: {said}")
    summary: dict[str, Any] = json.loads(ingest.stdout)
    return summary


def _queue(bench: BenchServer) -> Queue:
    status = _one(bench, "status")
    reasons = Counter({reason: counts["events"] for reason, counts in status["waiting_by_reason"].items()})
    flags = reasons.pop(FLAGGED, 0)
    return Queue(reasons, flags, status["waiting"]["legal_now"])


def _wrong_payments(bench: BenchServer, truth: dict[str, str], where: str) -> int:
    """Return the number of payments in a wrong state. Exit if nobody sees one of them.

    A payment without recorded events is as good as created.
    """
    states = dict.fromkeys(truth, "created")
    seen = {entry["payment_id"] for entry in _all(bench, "history", "--outcome", "REJECT")}
    for payment in _all(bench, "payments"):
        states[payment["payment_id"]] = payment["state"]
        if payment["waiting"]:
            seen.add(payment["payment_id"])
    wrong = {payment_id for payment_id, state in states.items() if state != truth.get(payment_id)}
    if unseen := sorted(wrong - seen):
        examples = ", ".join(f"{each} is {states[each]}, expected {truth.get(each)}" for each in unseen[:5])
        raise SystemExit(f"{where}: {len(unseen)} payments are silently wrong: {examples}")
    return len(wrong)


def _one(bench: BenchServer, *arguments: str) -> dict[str, Any]:
    """Return the object that a command prints."""
    (found,) = _all(bench, *arguments, lines=False)
    return found


def _all(bench: BenchServer, *arguments: str, lines: bool = True) -> list[dict[str, Any]]:
    """Return the objects that a command prints."""
    command = [COMMAND, *arguments, "--quiet", "--format", "json"]
    finished = subprocess.run(command, env=environment(bench), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(text) for text in (finished.stdout.splitlines() if lines else [finished.stdout])]


def _describe(psp: Psp, way: Way, stream: Stream) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in stream.before.reasons.most_common())
    return (
        f"{psp.name}, {way.name}: {stream.webhooks:,} webhooks, {stream.events:,} events;"
        f" {stream.before.reviews:,} reviews ({reasons or 'none'}) → {stream.after.reviews:,},"
        f" {stream.before.flags:,} flags, {stream.rejected:,} rejected, {stream.wrong:,} wrong and seen"
    )
