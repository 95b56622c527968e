"""Output: files that are overwritten last, full disks, closed streams and pipes, terminals."""

import json
import os
from pathlib import Path

import pytest

from tests.support.command import Payproc, error_line, messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, fill_queue
from tests.support.shell import Shell
from tests.support.terminal import open_terminal

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command on a database with a pending review of payment p1, read from good.jsonl."""
    write_lines(shared.folder / "good.jsonl", [event_line("e1", "p1", "capture")])
    shared("ingest", "good.jsonl")
    return shared


# ---- Output files of an ingest -------------------------------------------------------------------


UNRECORDED = "unrecorded"
INPUT = event_line(UNRECORDED, "p2", "authorize")


def write_input(folder: Path) -> Path:
    """Write a file that must not be ingested, and a link to it; return its path."""
    path = folder / "input.jsonl"
    path.write_bytes(INPUT)
    (folder / "link").unlink(missing_ok=True)
    (folder / "link").symlink_to(path)
    return path


OVERWRITTEN = "is also an input; name another file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--malformed input.jsonl", f"--malformed: input.jsonl {OVERWRITTEN}"),
        ("--decisions ./link", f"--decisions: ./link {OVERWRITTEN}"),
        ("--decisions new --malformed ./new", "--decisions and --malformed both name ./new; name two files"),
        ("--decisions - --malformed -", "--decisions and --malformed both name -; name two files"),
        ("--decisions no/such/file", "--decisions: no/such/file cannot be written: No such file or directory"),
    ],
)
def test_output_never_overwrites_an_input(shared: InProcess, arguments: str, message: str) -> None:
    """Two outputs never share a file, either."""
    path = write_input(shared.folder)
    assert error_line(shared("ingest", "input.jsonl", *arguments.split()), 2) == f"payproc: {message}"
    assert path.read_bytes() == INPUT
    assert UNRECORDED not in shared("export").stdout


@pytest.mark.parametrize(
    "command",
    [
        '"$0" ingest --malformed input.jsonl < input.jsonl',
        '"$0" ingest input.jsonl --decisions - >> input.jsonl',
        'cat input.jsonl | "$0" ingest - input.jsonl --decisions ./input.jsonl',
    ],
)
def test_redirected_input_is_not_overwritten(shared: InProcess, command: str) -> None:
    path = write_input(shared.folder)
    message = error_line(Shell(shared.process)(command), 2)
    assert message.endswith(OVERWRITTEN)
    assert path.read_bytes() == INPUT
    assert UNRECORDED not in shared("export").stdout


def test_output_is_emptied_last(run_in_process: InProcess, good: Path) -> None:
    """The file keeps its content if the database or another output turns out to be missing."""
    kept = good.with_name("kept")
    kept.write_text("from yesterday")
    ingest = ("ingest", "good.jsonl", "--decisions", "kept")
    assert run_in_process(*ingest, "--database-url", "postgresql://u@127.0.0.1:1/d").code == 1
    assert run_in_process(*ingest, "--malformed", "no/such/folder").code == 2
    assert kept.read_text() == "from yesterday"
    assert run_in_process(*ingest).code == 0
    assert kept.read_text().startswith('{"source":"good.jsonl"')


# ---- Full disks, closed streams and pipes --------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["ingest good.jsonl", "export", "review", "show p1 --format json", "rules", "show --help", "--version"],
)
def test_full_disk_is_one_line(filled: InProcess, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        finished = filled.process(*command.split(), stdout=full)
    assert error_line(finished, 1) == "payproc: output could not be written: No space left on device"


@pytest.mark.parametrize("command", ["resolve e1 --dismiss", "correct p1 --to captured"])
def test_full_disk_keeps_a_decision(run_in_process: InProcess, sql: Sql, command: str) -> None:
    """The message says so, because another attempt would be refused or would be a second entry."""
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "capture"))
    with Path("/dev/full").open("wb") as full:
        finished = run_in_process.process(*command.split(), "--note", "n", "--yes", stdout=full)
    line = "payproc: output could not be written: No space left on device; the decision is recorded"
    assert error_line(finished, 1) == line
    assert sql.value("SELECT version FROM payproc.payments") == 2


def test_full_disk_under_decisions_is_one_line(payproc: Payproc, good: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        finished = payproc("ingest", "good.jsonl", "--decisions", "-", stdout=full)
    assert finished.code == 1
    line = "payproc: --decisions: cannot be written: No space left on device; recorded events stay recorded"
    assert any(message.startswith(line) for message in messages(finished))


def test_disk_full_in_mid_report_fails_the_run(payproc: Payproc, sql: Sql) -> None:
    """A write may take a part of its bytes only, with or without Python's own buffer in between."""
    lines = [event_line(f"e{number}", f"p{number}", "authorize") for number in range(3000)]
    write_lines(payproc.folder / "many.jsonl", lines)
    script = 'ulimit -f 100; trap "" XFSZ; exec "$0" ingest many.jsonl --quiet --decisions - > small'
    for environment in ({}, {"PYTHONUNBUFFERED": "1"}):
        finished = Shell(payproc)(script, env=environment)
        assert finished.code == 1, finished
        assert "--decisions: cannot be written: File too large" in finished.stderr
    assert sql.value("SELECT count(*) FROM payproc.events") == 3000
    assert sql.rows("SELECT lines, finished_at FROM payproc.runs ORDER BY run_id") == [(3000, None), (3000, None)]


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_stream_is_refused(payproc: Payproc, good: Path, closed: str) -> None:
    """The next file that the command opens would get the closed stream's descriptor."""
    finished = Shell(payproc)(f'"$0" ingest good.jsonl {closed}')
    line = "payproc: standard input or output is closed; use /dev/null for one that is not needed\n"
    assert finished == (2, "", line)


@pytest.mark.parametrize(
    "command", ["review", "review --format json", "runs --format json", "show p1", "rules", "show --help", "export"]
)
def test_closed_pipe_ends_a_command_quietly(filled: InProcess, command: str) -> None:
    """The reader is gone before the command starts."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:  # noqa: PTH123 - a descriptor, no path
        finished = filled.process(*command.split(), stdout=pipe)
    assert (finished.code, messages(finished)) == (141, [])


@pytest.mark.parametrize("command", ["export", pytest.param("review --format json", marks=slow)])
def test_pipe_closed_midway_ends_a_command_quietly(payproc: Payproc, sql: Sql, command: str) -> None:
    """The lines that the reader has taken are whole."""
    fill_queue(sql, 1, 3000, 200)
    finished = Shell(payproc)(f'"$0" {command} -q | head -n 2; echo ${{PIPESTATUS[0]}}')
    *lines, code = finished.stdout.splitlines()
    assert [json.loads(row)["type"] for row in lines] == ["capture", "capture"]
    assert (code, finished.stderr) == ("141", "")


@slow
def test_closed_pipe_before_an_embedded_server_stops(tmp_path: Path) -> None:
    """The last command stops the server, so it must hold no connection. It prints nothing."""
    payproc = Payproc(tmp_path, None)
    day = b"\n".join(event_line(f"e{n}", f"p{n}", "capture", x="x" * 200) for n in range(2000))
    assert payproc("ingest", "-", "--quiet", stdin=day).code == 0
    for command in ("export", "review --format json"):
        finished = Shell(payproc)(f'"$0" {command} --quiet | head -n 1 >&2; exit ${{PIPESTATUS[0]}}')
        assert finished.code == 141
        assert len(finished.stderr.splitlines()) == 1, finished.stderr


# ---- Terminals -----------------------------------------------------------------------------------


def test_piped_table_is_as_wide_as_the_terminal(tmp_path: Path) -> None:
    """As in `payproc rules | less`: stdin is the terminal, and stdout is not."""
    payproc = Payproc(tmp_path, None)
    del payproc.environment["COLUMNS"]
    with open_terminal(60) as terminal, payproc.start("rules", stdin=terminal.stream, env={"TERM": "xterm"}) as process:
        beside = process.communicate()[0].decode()
    shown = [beside, *(payproc("rules", env={"TERM": term}).stdout for term in ("xterm", "dumb"))]
    assert [len(each.splitlines()[1]) for each in shown] == [60, 73, 73]


def test_ascii_stream_gets_a_rule_of_hyphens(tmp_path: Path) -> None:
    shown = Payproc(tmp_path, None)("rules", env={"PYTHONIOENCODING": "ascii"}).stdout.splitlines()
    assert set(shown[1]) == {"-"}
