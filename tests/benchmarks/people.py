"""People: the commands of the person who decides, on a queue of pending reviews.

The queue is that of an outage: each payment's capture came before its authorization, so every
pending review is legal now.
"""

import json
import resource
import subprocess
import time
from pathlib import Path

from harness import BenchServer
from payproc_process import COMMAND, environment, start_empty

LISTINGS = (
    ["status"],
    ["review", "--legal-now"],
    ["payments", "--waiting"],
    ["history", "--outcome", "MANUAL_REVIEW"],
    ["history", "--format", "json"],
)


def measure_people(bench: BenchServer, folder: Path, reviews: int) -> None:
    """Fill the queue; print the times of listings, of a file of decisions, and of one for all."""
    start_empty(bench)
    file = folder / "outage.jsonl"
    with file.open("w") as lines:
        for event_type in ("capture", "authorize"):
            for number in range(reviews):
                event = {"event_id": f"{event_type}_{number}", "payment_id": f"pay_{number}", "type": event_type}
                lines.write(json.dumps(event) + "\n")
    subprocess.run([COMMAND, "ingest", "--quiet", file], env=environment(bench), check=True)
    print(f"\n{reviews:,} pending reviews of as many payments\n")
    for arguments in LISTINGS:
        _time(bench, *arguments)
    # Half by a file and half by a filter. The second time, all decisions of the file are on record.
    decisions = folder / "decisions.jsonl"
    with decisions.open("w") as lines:
        for number in range(reviews // 2):
            lines.write(json.dumps({"event_id": f"capture_{number}", "resolution": "apply"}) + "\n")
    by_file = ("resolve", "--from", str(decisions), "--note", "late", "--by", "alice")
    _time(bench, *by_file, decisions=reviews // 2)
    _time(bench, *by_file, decisions=reviews // 2)
    _time(
        bench,
        *("resolve", "--all", "--legal-now", "--apply", "--note", "late", "--by", "bob", "--yes"),
        decisions=reviews - reviews // 2,
    )
    _time(bench, "verify")


def _time(bench: BenchServer, *arguments: str, decisions: int | None = None) -> None:
    """Run a command; print its time, and for decisions the time of each."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([COMMAND, *arguments], env=environment(bench), stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    each = f", {seconds / decisions * 1000:.2f} ms a decision" if decisions else ""
    command = " ".join(Path(argument).name for argument in arguments[:3])
    print(f"payproc {command:<40} {seconds:>7.2f} s, {cpu:>6.2f} s of CPU{each}", flush=True)
