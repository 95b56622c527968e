"""Signals on the embedded database: bursts, groups of processes, and waits that must end.

Systemd, closing terminals and impatient people send signals milliseconds apart. Wherever such a
burst hits, the command ends soon, without a traceback, and leaves neither a server nor a lock
behind.
"""

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest

from payproc.embedded.server import run_server
from payproc.signals import BURST_SECONDS
from tests.support.homes import connect, find_open_files
from tests.support.places import Place, Process, build_lines, end_soon, open_pipe, temporary_place
from tests.support.postgres import wait_for
from tests.support.tally import count

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def home_template() -> Iterator[Path]:
    """A home with payproc's schema, to be copied."""
    with temporary_place() as place:
        place.run("init")
        yield place.home


@pytest.fixture
def place(home_template: Path) -> Iterator[Place]:
    """A place with payproc's schema. No server may be left in it."""
    with temporary_place(home_template) as place:
        yield place


# ---- Bursts: each phase starts a command and returns it when a burst is due ----------------------


def wait_until_taken_over(process: Process) -> None:
    """Wait for this program's first line, because the interpreter handles Ctrl-C before it.

    After that line nobody handles it for a moment, which may be too short to be seen. Then the
    thread that watches the signals begins.
    """
    was_caught = False

    def is_taken_over() -> bool:
        nonlocal was_caught
        if process.poll() is not None:
            return True
        status = Path(f"/proc/{process.pid}/status").read_text()
        threads, caught = (status.partition(name)[2].split()[0] for name in ("Threads:", "SigCgt:"))
        is_caught = bool(int(caught, 16) & 1 << (signal.SIGINT - 1))
        was_caught = was_caught or is_caught
        return int(threads) > 1 or (was_caught and not is_caught)

    wait_for(is_taken_over)


def start_creation(place: Place, chance: random.Random) -> Process:
    shutil.rmtree(place.home, ignore_errors=True)
    process = place.start("init")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0, 2.5))
    return process


def start_imports(place: Place, chance: random.Random) -> Process:
    process = place.start("init")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0, 0.2))
    return process


def start_server(place: Place, chance: random.Random) -> Process:
    process = place.start("runs")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0.1, 0.7))
    return process


def start_ingest(place: Place, chance: random.Random) -> Process:
    reported = place.folder / "decisions.jsonl"
    reported.unlink(missing_ok=True)
    process = place.start("ingest", "--decisions", reported.name, "-")
    first = chance.randrange(10**9)
    open_pipe(process.stdin).write(build_lines(first, first + chance.choice((1, 1_000))))
    open_pipe(process.stdin).flush()
    wait_for(lambda: reported.exists() and reported.stat().st_size)
    time.sleep(chance.uniform(0, 0.05))
    return process


def start_end(place: Place, chance: random.Random) -> Process:
    process = start_ingest(place, chance)
    open_pipe(process.stdin).close()
    process.stdin = None
    time.sleep(chance.uniform(0, 0.3))
    return process


def start_question(place: Place, chance: random.Random) -> Process:
    """Start a command that asks a person, on a terminal."""
    place.run("ingest", "-", stdin=build_lines(0, 1, "capture"))
    terminal, its_end = pty.openpty()
    process = place.start("resolve", "e0", "--dismiss", "--note", "n", stdin=its_end, stderr=its_end)
    os.close(its_end)
    process.stderr = open(terminal, "rb", buffering=0)  # noqa: SIM115, PTH123 - a descriptor
    asked = b""
    while not asked.endswith(b"[y/N]: "):
        asked += process.stderr.read(1) or b""
    time.sleep(chance.uniform(0, 0.05))
    return process


PHASES: dict[str, Callable[[Place, random.Random], Process]] = {
    "creation": start_creation,
    "imports": start_imports,
    "start": start_server,
    "ingest": start_ingest,
    "end": start_end,
    "question": start_question,
}


def send_burst(process: Process, chance: random.Random) -> bool:
    """Send two to five signals, up to 10 ms apart. Return whether they were one burst."""
    began = time.monotonic()
    for number in chance.choices(NUMBERS, k=chance.randint(2, 5)):
        process.send_signal(number)
        time.sleep(chance.choice((0, chance.uniform(0, 0.001), chance.uniform(0, 0.01))))
    return time.monotonic() - began < BURST_SECONDS


def hit(place: Place, phase: str, seed: int) -> None:
    """Send a burst to a command in a phase. The command must end soon and leave no server."""
    chance = random.Random(f"{phase} {seed}")
    process = PHASES[phase](place, chance)
    is_one_burst = send_burst(process, chance)
    stderr = end_soon(process)
    if not is_one_burst and "interrupted without cleaning up" in stderr:  # this machine was busy with something else
        place.run("init")  # stops the server that was left running
    # The default action kills it during imports, and after the interpreter's own end.
    ends = {0} | {128 + number for number in NUMBERS} | {-number for number in NUMBERS}
    assert process.returncode in ends, (process.returncode, stderr)
    assert all(line.startswith("payproc: ") for line in stderr.splitlines() if line), stderr
    wait_for(lambda: not place.find_processes())


@pytest.mark.parametrize(
    "phase", ["start", *(pytest.param(name, marks=pytest.mark.slow) for name in PHASES if name != "start")]
)
def test_burst_ends_a_command_soon(place: Place, phase: str) -> None:
    for seed in range(2):
        hit(place, phase, seed)
    place.run("init")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "bursts"),
    [("creation", 40), ("imports", 60), ("start", 100), ("ingest", 60), ("end", 60), ("question", 20)],
)
def test_many_bursts_leave_no_hang_or_traceback(place: Place, phase: str, bursts: int) -> None:
    faults = []
    for seed in range(100, 100 + bursts):
        try:
            hit(place, phase, seed)
        except AssertionError as error:
            faults.append(f"{phase} {seed}: {error}")
        count("bursts of signals", 1)
    assert not faults, "\n".join(faults)
    place.run("init")


# ---- Waits that a signal must end ----------------------------------------------------------------


def test_signal_ends_wait_for_a_home_lock(place: Place) -> None:
    with (place.home / "start.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = place.start("runs")
        wait_for(lambda: "start.lock" in find_open_files(process.pid))
        process.send_signal(signal.SIGTERM)
        assert end_soon(process) == "payproc: interrupted\n"
        assert process.returncode == 143
    place.run("runs")


def test_signal_ends_wait_for_an_answer(place: Place) -> None:
    """The answer never comes, because the server is suspended."""
    with run_server(place.home) as server, closing(connect(server)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE payproc.events IN ACCESS EXCLUSIVE MODE")
        process = place.start("verify")
        wait_for(lambda: has_waiting_lock(cursor))
        with place.server_suspended():
            process.send_signal(signal.SIGTERM)
            assert end_soon(process).splitlines()[-1] == "payproc: interrupted"
        assert process.returncode == 143


def test_later_signal_ends_a_hanging_connect(place: Place) -> None:
    """The driver is deaf to signals meanwhile. Those of the same burst change nothing."""
    with run_server(place.home), place.server_suspended():
        process = place.start("verify")
        assert open_pipe(process.stderr).readline().startswith(b"payproc: database: ")
        wait_for(lambda: any(name.startswith("socket:") for name in find_open_files(process.pid)))

        def is_gone() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        wait_for(is_gone)
        assert end_soon(process) == "payproc: interrupted without cleaning up\n"
        assert process.returncode == 143


def has_waiting_lock(cursor: psycopg2.extensions.cursor) -> bool:
    """Return whether a command waits for a lock of the database."""
    cursor.execute("SELECT FROM pg_locks WHERE NOT granted")
    return bool(cursor.rowcount)


# ---- A signal to a group of processes ------------------------------------------------------------


def signal_group(process: Process, place: Place, chance: random.Random) -> None:
    """Send SIGTERM to the command and all processes of the server, in any order, like systemd."""
    group = [process.pid, *place.find_processes()]
    assert len(group) > 3
    for pid in chance.sample(group, len(group)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


GROUP_CASES = [(is_busy, seed) for is_busy in (False, True) for seed in range(20)]


@pytest.mark.parametrize(
    ("is_busy", "seed"), [GROUP_CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in GROUP_CASES[1:])]
)
def test_signal_to_group_interrupts_a_run(place: Place, is_busy: bool, seed: int) -> None:
    chance = random.Random(seed)
    (place.folder / "day.jsonl").write_bytes(build_lines(0, 30_000 if is_busy else 10))
    # The second source never ends, so the run cannot end before the signal.
    process = place.start("ingest", "--format", "json", "--decisions", "decisions.jsonl", "day.jsonl", "-")
    reported = place.folder / "decisions.jsonl"
    wait_for(lambda: reported.exists() and reported.stat().st_size)
    if not is_busy:
        wait_for(lambda: read_run(place)["lines"] == 10)
    time.sleep(chance.uniform(0, 0.2))
    signal_group(process, place, chance)
    summary = json.loads(open_pipe(process.stdout).read())
    *_, last = end_soon(process).splitlines()
    assert process.returncode == 143
    assert last == "payproc: interrupted; reported events are recorded, and a rerun is safe"
    assert summary["lines"] == summary["outcomes"]["APPLY"] == len(reported.read_bytes().splitlines())
    recorded = len(place.run("export", "--quiet").splitlines())
    assert summary["lines"] <= recorded
    if not is_busy:
        assert read_run(place)["lines"] == 10
    assert json.loads(place.run("ingest", "--format", "json", "day.jsonl"))["outcomes"]["IGNORE"] == recorded


def read_run(place: Place) -> dict[str, Any]:
    """Return the only run, from `payproc runs`."""
    (line,) = place.run("runs", "--format", "json").splitlines()
    run: dict[str, Any] = json.loads(line)
    return run


@pytest.mark.slow
def test_signal_to_group_interrupts_a_wait(place: Place) -> None:
    place.run("ingest", "-", "--quiet", stdin=build_lines(0, 10))
    with run_server(place.home) as server, closing(connect(server)) as holder:
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE payproc.events IN ACCESS EXCLUSIVE MODE")
            process = place.start("verify")
            wait_for(lambda: has_waiting_lock(cursor))
        # The server's end would also end the wait, so the command gets its signal no later.
        process.send_signal(signal.SIGSTOP)
        signal_group(process, place, random.Random(1))
        process.send_signal(signal.SIGCONT)
        assert end_soon(process).splitlines()[-1] == "payproc: interrupted"
        assert process.returncode == 143
