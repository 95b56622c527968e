"""`payproc export` into pipes, files and terminals: interrupts, hostile text, progress bar."""

import fcntl
import json
import signal
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Payproc, RunningCommand
from tests.support.events import event_line
from tests.support.hostile import IDS, TEXTS, harmful
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, fill_queue, wait_for
from tests.support.shell import Shell
from tests.support.terminal import open_terminal

# ---- Signals -------------------------------------------------------------------------------------


@pytest.fixture
def stalled(payproc: Payproc, sql: Sql) -> Iterator[RunningCommand]:
    """An export in the middle of a line, because nobody reads from its pipe."""
    fill_queue(sql, 1, 30, 100_000)
    with payproc.start("export") as process:
        wait_for(lambda: unread_bytes(process) >= 60_000)
        yield process


def unread_bytes(process: RunningCommand) -> int:
    (unread,) = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4))
    return int(unread)


def wait_until_taken(process: RunningCommand) -> None:
    """Wait until the process has no pending signals and sleeps again, so it has handled them."""

    def is_taken() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return f"ShdPnd:\t{0:016x}\n" in status and "State:\tS" in status

    wait_for(is_taken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_export_ends_with_a_whole_line(
    payproc: Payproc, stalled: RunningCommand, number: signal.Signals, code: int
) -> None:
    stalled.send_signal(number)
    wait_until_taken(stalled)  # once somebody reads, the write may end before the signal arrives
    stdout, stderr = stalled.communicate(timeout=30)
    assert stalled.returncode == code
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"
    assert stdout.endswith(b'"}\n')
    whole = payproc("export").stdout.encode()
    assert whole.startswith(stdout)
    assert len(stdout) < len(whole)


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_interrupt_kills_a_stalled_export(stalled: RunningCommand, first: signal.Signals, code: int) -> None:
    """Interrupts of the first one's burst are ignored, so the test sends more until one works."""
    stalled.send_signal(first)
    wait_until_taken(stalled)

    def is_gone() -> bool:
        stalled.send_signal(signal.SIGINT)
        return stalled.poll() is not None

    wait_for(is_gone)
    assert stalled.stderr.read().splitlines()[-1] == b"payproc: interrupted without cleaning up"
    assert stalled.returncode == code


# ---- Hostile text --------------------------------------------------------------------------------


@pytest.fixture
def hostile(run_in_process: InProcess) -> list[bytes]:
    """Recorded lines with hostile text in ids and elsewhere, in the order of an export."""
    text = " ".join(TEXTS).translate(dict.fromkeys(range(0x20), " ")).replace("\\", "").replace('"', "")
    facts = [{"event_id": each, "payment_id": each, "type": "fail"} for each in sorted(IDS)]
    starts = [json.dumps(fact, ensure_ascii=False).removesuffix("}") for fact in facts]
    lines = [f'{start},\t"x":"{text}",\r"y":1}}'.encode() for start in starts]
    assert run_in_process("ingest", "-", "--quiet", stdin=b"\n".join(lines)).code == 0
    return lines


def test_pipe_gets_hostile_text_byte_for_byte(payproc: Payproc, hostile: list[bytes]) -> None:
    with payproc.start("export") as process:
        stdout, _ = process.communicate()
    assert stdout == b"".join(each + b"\n" for each in hostile)
    assert harmful(stdout.decode())


def test_terminal_gets_hostile_text_escaped(payproc: Payproc, hostile: list[bytes]) -> None:
    """The lines are the same JSON."""
    with (
        open_terminal() as terminal,
        payproc.start("export", "--quiet", stdout=terminal.stream, env={"TERM": "xterm"}) as process,
    ):
        shown = terminal.read_all()
    assert process.returncode == 0
    assert not harmful(shown.decode())
    assert [json.loads(each) for each in shown.splitlines()] == [json.loads(each) for each in hostile]


@pytest.mark.parametrize("into", ["> file", "| cat > file"])
def test_bar_is_drawn_unless_stdout_is_a_pipe(payproc: Payproc, run_in_process: InProcess, into: str) -> None:
    """The reader of a pipe may draw one on the same terminal."""
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    script = f'"$0" export {into}'
    with (
        open_terminal() as terminal,
        Shell(payproc).start(script, stderr=terminal.stream, env={"TERM": "xterm"}),
    ):
        drawn = terminal.read_all()
    assert (payproc.folder / "file").read_bytes() == event_line("e1", "p1", "authorize") + b"\n"
    assert (b"1/1" in drawn) == (into == "> file")
    assert b"exported 1 event and 0 conflicts" in drawn
