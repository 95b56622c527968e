"""Signals on the embedded database: bursts, signals to a whole group of processes, and waits that they must end.

Systemd, closing terminals and impatient people send signals milliseconds apart. Wherever such a burst hits, the command
ends soon, without a traceback, and leaves neither a server nor a lock behind.
"""

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import psycopg2
import psycopg2.extensions
import pytest

from payproc.embedded.server import EmbeddedServer, running_server
from tests.support.postgres import wait_for
from tests.support.tally import count

Process = subprocess.Popen[bytes]

PAYPROC = Path(sys.executable).with_name("payproc")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SOON_SECONDS = 5


class Place(NamedTuple):
    """A folder with the home of an embedded server, in which commands run."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, *arguments: str, stdin: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> Process:
        """Start the command."""
        environment = {"PATH": os.environ["PATH"], "PAYPROC_HOME": str(self.home), "HOME": str(self.folder)}
        return subprocess.Popen(
            [PAYPROC, *arguments], cwd=self.folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
        )

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run a command that must end well, so nothing is in its way; return its stdout."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(stdin, timeout=60)
        assert process.returncode == 0, stderr.decode()
        return stdout

    def processes(self) -> list[int]:
        """Return the processes that live in the home: a server's, or those of its creation."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").resolve(strict=True).is_relative_to(self.home):
                    found.append(int(process.name))
        return found


def new_place() -> Place:
    """Make a folder in memory, because a slow disk must not pass for a hang."""
    memory = Path("/dev/shm")
    return Place(Path(tempfile.mkdtemp(prefix="signals-", dir=memory if memory.is_dir() else None)))


@pytest.fixture(scope="module")
def template() -> Iterator[Place]:
    """A home with payproc's schema, to be copied."""
    place = new_place()
    place.run("init")
    yield place
    shutil.rmtree(place.folder)


@pytest.fixture
def place(template: Place) -> Iterator[Place]:
    """A home with payproc's schema. No server may be left in it."""
    place = new_place()
    subprocess.run(["cp", "-a", template.home, place.home], check=True)
    place.folder.chmod(template.folder.stat().st_mode & 0o777)
    yield place
    left = place.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not place.processes())
    shutil.rmtree(place.folder)
    assert not left, "a server was left behind"


def lines(first: int, last: int, event_type: str = "authorize") -> bytes:
    return b"".join(
        json.dumps({"event_id": f"e{number}", "payment_id": f"p{number}", "type": event_type}).encode() + b"\n"
        for number in range(first, last)
    )


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


# ---- Bursts: each of these starts a command and returns it when a burst is due -------------------


def wait_until_taken_over(process: Process) -> None:
    """Wait for the first line of this program: before that, Ctrl-C has the interpreter's own handler."""

    def is_caught() -> bool:
        caught = int(Path(f"/proc/{process.pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
        return bool(caught & 1 << (signal.SIGINT - 1))

    wait_for(is_caught)
    wait_for(lambda: not is_caught())


def creation(place: Place, chance: random.Random) -> Process:
    """The first command of a home."""
    shutil.rmtree(place.home, ignore_errors=True)
    process = place.start("init")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0, 2.5))
    return process


def imports(place: Place, chance: random.Random) -> Process:
    process = place.start("init")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0, 0.2))
    return process


def start(place: Place, chance: random.Random) -> Process:
    process = place.start("runs")
    wait_until_taken_over(process)
    time.sleep(chance.uniform(0.1, 0.7))
    return process


def ingest(place: Place, chance: random.Random) -> Process:
    reported = place.folder / "decisions.jsonl"
    reported.unlink(missing_ok=True)
    process = place.start("ingest", "--decisions", reported.name, "-")
    first = chance.randrange(10**9)
    pipe(process.stdin).write(lines(first, first + chance.choice((1, 1_000))))
    pipe(process.stdin).flush()
    wait_for(lambda: reported.exists() and reported.stat().st_size)
    time.sleep(chance.uniform(0, 0.05))
    return process


def end(place: Place, chance: random.Random) -> Process:
    process = ingest(place, chance)
    pipe(process.stdin).close()
    process.stdin = None
    time.sleep(chance.uniform(0, 0.3))
    return process


def question(place: Place, chance: random.Random) -> Process:
    """A command that asks a person, on a terminal."""
    place.run("ingest", "-", stdin=lines(0, 1, "capture"))
    terminal, its_end = pty.openpty()
    process = place.start("resolve", "e0", "--dismiss", "--note", "n", stdin=its_end, stderr=its_end)
    os.close(its_end)
    process.stderr = open(terminal, "rb", buffering=0)  # noqa: SIM115, PTH123 - a descriptor, closed with the process
    asked = b""
    while not asked.endswith(b"[y/N]:"):
        asked += process.stderr.read(1) or b""
    time.sleep(chance.uniform(0, 0.05))
    return process


PHASES: dict[str, Callable[[Place, random.Random], Process]] = {
    each.__name__: each for each in (creation, imports, start, ingest, end, question)
}


def burst(process: Process, chance: random.Random) -> None:
    """Send two to five signals, up to 10 ms apart."""
    for number in chance.choices(NUMBERS, k=chance.randint(2, 5)):
        process.send_signal(number)
        time.sleep(chance.choice((0, chance.uniform(0, 0.001), chance.uniform(0, 0.01))))


def end_soon(process: Process) -> str:
    """Wait for the end, which must come soon; return what it said."""
    began = time.monotonic()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    took = time.monotonic() - began
    said = b""
    with suppress(OSError):  # of a terminal that nobody has open any more
        while block := pipe(process.stderr).read(65_536):
            said += block
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    assert took < SOON_SECONDS, f"it took {took:.1f} s, and said {said.decode()!r}"
    return said.decode()


def hit(place: Place, phase: str, seed: int) -> None:
    """Let a burst hit a command in a phase. It must end soon, with a code for it, and leave no server."""
    chance = random.Random(f"{phase} {seed}")
    process = PHASES[phase](place, chance)
    burst(process, chance)
    said = end_soon(process)
    # Killed by the default action: while modules are imported, and when the interpreter has put its handlers away.
    ends = {0} | {128 + number for number in NUMBERS} | {-number for number in NUMBERS}
    assert process.returncode in ends, (process.returncode, said)
    assert all(line.startswith("payproc: ") for line in said.splitlines() if line), said
    wait_for(lambda: not place.processes())


@pytest.mark.parametrize("phase", PHASES)
def test_a_burst_of_signals_ends_a_command_soon(place: Place, phase: str) -> None:
    for seed in range(2):
        hit(place, phase, seed)
    place.run("init")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "bursts"),
    [("creation", 40), ("imports", 60), ("start", 100), ("ingest", 60), ("end", 60), ("question", 20)],
)
def test_no_burst_of_many_leaves_a_hang_or_a_traceback(place: Place, phase: str, bursts: int) -> None:
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


def test_a_signal_ends_a_command_that_waits_for_the_lock_of_another(place: Place) -> None:
    with (place.home / "start.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = place.start("runs")
        wait_for(lambda: "start.lock" in open_files(process.pid))
        process.send_signal(signal.SIGTERM)
        assert end_soon(process) == "payproc: interrupted\n"
        assert process.returncode == 143
    place.run("runs")


def test_a_signal_ends_a_wait_for_an_answer_that_never_comes(place: Place) -> None:
    with running_server(place.home) as server, closing(connect(server)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE payproc.events IN ACCESS EXCLUSIVE MODE")
        process = place.start("verify")
        wait_for(lambda: is_waiting(cursor))
        with stopped(place):
            process.send_signal(signal.SIGTERM)
            assert end_soon(process).splitlines()[-1] == "payproc: interrupted"
        assert process.returncode == 143


def test_a_later_signal_ends_a_connecting_that_never_ends(place: Place) -> None:
    """The driver is deaf to signals meanwhile. Those of the same burst change nothing."""
    with running_server(place.home), stopped(place):
        process = place.start("verify")
        assert pipe(process.stderr).readline().startswith(b"payproc: database: ")
        wait_for(lambda: any(name.startswith("socket:") for name in open_files(process.pid)))

        def is_gone() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        wait_for(is_gone)
        assert end_soon(process) == "payproc: interrupted without cleaning up\n"
        assert process.returncode == 143


@contextmanager
def stopped(place: Place) -> Iterator[None]:
    """Stop all processes of the server in the middle of what they do."""
    processes = place.processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def is_waiting(cursor: psycopg2.extensions.cursor) -> bool:
    """Whether a command waits for a lock of the database."""
    cursor.execute("SELECT FROM pg_locks WHERE NOT granted")
    return bool(cursor.rowcount)


def connect(server: EmbeddedServer) -> psycopg2.extensions.connection:
    return psycopg2.connect(" ".join(f"{name}='{value}'" for name, value in server.connect_args.items()))


def open_files(pid: int) -> list[str]:
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(descriptor.readlink().name)
    return found


# ---- A signal to a whole group of processes ------------------------------------------------------


def signal_all(process: Process, place: Place, chance: random.Random) -> None:
    """Send SIGTERM to the command, the server and each of its processes, as systemd does, in any order."""
    group = [process.pid, *place.processes()]
    assert len(group) > 3
    for pid in chance.sample(group, len(group)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "idle"])
def test_a_signal_to_the_run_and_its_server_ends_it_as_interrupted(place: Place, is_busy: bool, seed: int) -> None:
    chance = random.Random(seed)
    (place.folder / "day.jsonl").write_bytes(lines(0, 30_000 if is_busy else 10))
    sources = ["day.jsonl"] if is_busy else ["day.jsonl", "-"]
    process = place.start("ingest", "--format", "json", "--decisions", "decisions.jsonl", *sources)
    reported = place.folder / "decisions.jsonl"
    wait_for(lambda: reported.exists() and reported.stat().st_size)
    time.sleep(chance.uniform(0, 0.2))
    signal_all(process, place, chance)
    summary = json.loads(pipe(process.stdout).read())
    *_, last = end_soon(process).splitlines()
    assert process.returncode == 143
    assert last == "payproc: interrupted; what was reported is recorded, and running the same command again is safe"
    assert summary["lines"] == summary["outcomes"]["APPLY"] == len(reported.read_bytes().splitlines())
    recorded = len(place.run("export", "--quiet").splitlines())
    assert summary["lines"] <= recorded
    if not is_busy:
        (run,) = (json.loads(line) for line in place.run("runs", "--format", "json").splitlines())
        assert run["lines"] == 10
    assert json.loads(place.run("ingest", "--format", "json", "day.jsonl"))["outcomes"]["IGNORE"] == recorded


def test_a_signal_to_a_waiting_command_and_its_server_ends_it_as_interrupted(place: Place) -> None:
    place.run("ingest", "-", "--quiet", stdin=lines(0, 10))
    with running_server(place.home) as server, closing(connect(server)) as holder:
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE payproc.events IN ACCESS EXCLUSIVE MODE")
            process = place.start("verify")
            wait_for(lambda: is_waiting(cursor))
        signal_all(process, place, random.Random(1))
        assert end_soon(process).splitlines()[-1] == "payproc: interrupted"
        assert process.returncode == 143
