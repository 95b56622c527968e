"""Recipes: jq's processor time for each tenth of a long dump, and its memory.

The dump repeats two payments of the sample, each time with other ids: one captured and refunded as
a whole, one refunded in parts after a refused attempt. So the recipe for Adyen remembers all.
"""

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "sample_events" / "psp"

TENTHS = 10


def measure_recipes(messages: int) -> None:
    """Run each recipe on as many messages; print its time by tenths, and its memory."""
    if shutil.which("jq") is None:
        print("the recipes use jq, which is not installed here")
        return
    print(f"\n{messages:,} messages, microseconds of processor time a message, by tenths\n")
    for name, payments in (("stripe", ("Lamp", "Bike")), ("adyen", ("LAMP", "BIKE"))):
        lines = [line for line in (SAMPLES / f"{name}.jsonl").open() if any(word in line for word in payments)]
        copies = messages // len(lines) // TENTHS
        command = ["jq", "-cf", str(SAMPLES / f"{name}.jq")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as jq:
            assert jq.stdin is not None
            used = [0.0]
            for tenth in range(TENTHS):
                for copy in range(tenth * copies, (tenth + 1) * copies):
                    jq.stdin.writelines(_number(line, copy) for line in lines)
                jq.stdin.flush()
                used.append(_cpu_seconds(jq.pid))
            jq.stdin.close()
            _, _, usage = os.wait4(jq.pid, 0)
            jq.returncode = 0
        times = [1e6 * (after - before) / copies / len(lines) for before, after in pairwise(used)]
        print(
            f"{name:7} {' '.join(f'{each:4.0f}' for each in times)}   in all {usage.ru_utime + usage.ru_stime:.0f} s,"
            f" at most {usage.ru_maxrss / 1024:,.0f} MB, {sum(map(len, lines)) / len(lines):.0f} bytes a message",
            flush=True,
        )


def _number(line: str, number: int) -> str:
    """Return the same line about another payment."""
    return line.replace("3Qinvented", f"3Q{number}invented").replace("0000000", f"{number:07}")


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far. A pipe of 64 KB is still before it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
