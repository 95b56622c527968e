"""Peak memory of the commands: it is flat, however many lines or records there are."""

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command import Payproc, RunningCommand
from tests.support.events import event_line
from tests.support.postgres import Sql, fill_queue, wait_for

pytestmark = pytest.mark.slow

FEW = 3_000
TOLERANCE_KIB = 15_000


EVERY = 500
"""Lines between two looks at the memory. The last ones may be read after the process has ended."""


def peak_kib(process: RunningCommand) -> int:
    """Return the most memory that a running process has had, 0 once it has ended."""
    with suppress(OSError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int((status.partition("VmHWM:")[2].split() or ["0"])[0])
    return 0


@pytest.mark.parametrize(
    ("command", "many", "word"),
    [
        ("review", 60_000, b"capture"),
        ("review --format json", 300_000, b"capture"),
        ("export", 300_000, b"capture"),
        ("history", 60_000, b"capture"),
        ("history --format json", 300_000, b"capture"),
        ("payments", 300_000, b"created"),
    ],
)
def test_memory_is_flat_for_many_events(payproc: Payproc, sql: Sql, command: str, many: int, word: bytes) -> None:
    peaks = []
    for first, last in ((1, FEW), (FEW + 1, many)):
        fill_queue(sql, first, last)
        process = payproc.start(*command.split(), "--quiet")
        listed = peak = 0
        for row in process.stdout:
            listed += word in row
            if listed % EVERY == 0:
                peak = max(peak, peak_kib(process))
        process.communicate()
        assert listed == last
        peaks.append(peak)
    assert peaks[1] < peaks[0] + TOLERANCE_KIB, f"peaks in KiB: {peaks}"


@pytest.mark.parametrize("source", ["--all", "--from"])
def test_resolve_memory_is_flat_for_many_decisions(payproc: Payproc, sql: Sql, source: str) -> None:
    peaks = []
    for first, last in ((1, FEW), (FEW + 1, 20_000)):
        fill_queue(sql, first, last)
        listed = payproc.folder / "orders.jsonl"
        listed.write_text("".join(f'{{"event_id": "ep{number}"}}\n' for number in range(first, last + 1)))
        arguments = ["--all", "--yes"] if source == "--all" else ["--from", "orders.jsonl"]
        process = payproc.start("resolve", *arguments, "--apply", "--note", "n", "--quiet", "--decisions", "-")
        peaks.append(max(peak_kib(process) for number, _ in enumerate(process.stdout) if number % EVERY == 0))
        process.communicate()
        assert process.returncode == 0
    assert peaks[1] < peaks[0] + TOLERANCE_KIB, f"peaks in KiB: {peaks}"


def test_review_memory_is_a_page_of_long_lines(payproc: Payproc, sql: Sql) -> None:
    """600 pending reviews have lines of nearly 1 MiB each. They never are in memory together."""
    size, count = 1_000_000, 600
    fill_queue(sql, 1, count, size)
    process = payproc.start("review", "--quiet", "--format", "json")
    peak = 0
    for _ in range(count):
        assert len(process.stdout.readline()) > size
        peak = max(peak, peak_kib(process) * 1024)
    process.communicate()
    assert peak < count * size * 0.7, f"it took {peak:,} bytes"


def test_ingest_memory_is_flat_for_many_lines(payproc: Payproc, sql: Sql) -> None:
    """Ten times the lines take at most the tolerance more."""
    peaks = []
    for run, count in enumerate((30_000, 300_000)):
        process = payproc.start("ingest", "-", "--format", "json", stdin=subprocess.PIPE)
        for number in range(count):
            event = event_line(f"e{run}_{number}", f"p{run}_{number}", "authorize", note="x" * 200)
            process.stdin.write(event + b"\n")
        process.stdin.flush()
        wait_for(lambda: sql.value("SELECT sum(lines) FROM payproc.runs") > count * 0.9)  # noqa: B023
        peaks.append(peak_kib(process))
        process.communicate()
    assert peaks[1] < peaks[0] + TOLERANCE_KIB, f"peaks in KiB: {peaks}"
