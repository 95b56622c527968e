"""Memory: an ingest keeps none of its lines."""

import subprocess
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line
from tests.support.postgres import Sql, wait_for


@pytest.mark.slow
def test_memory_of_an_ingest_stays_flat(payproc: Payproc, sql: Sql) -> None:
    """Ten times the lines take at most 20 MB more at the peak."""
    peaks = []
    for run, count in enumerate((30_000, 300_000)):
        process = payproc.start("ingest", "-", "--format", "json", stdin=subprocess.PIPE)
        for number in range(count):
            process.stdin.write(event_line(f"e{run}_{number}", f"p{run}_{number}", "authorize", note="x" * 200) + b"\n")
        process.stdin.flush()
        wait_for(lambda: sql.value("SELECT sum(lines) FROM payproc.runs") > count * 0.9)  # noqa: B023
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
        process.communicate()
    assert peaks[1] < peaks[0] + 20_000, f"peaks in kB: {peaks}"
