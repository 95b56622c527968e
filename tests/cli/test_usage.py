"""Wrong usage: each call gets one line and exit code 2.

The tables of arguments and lines are in tests/support/wrong_usage.py, and its sibling for the
commands that only read.
"""

import gzip
import re
import shlex
import zipfile
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, contents
from tests.support.wrong_usage import REFUSED_BY_WRITERS
from tests.support.wrong_usage_of_readers import REFUSED_BY_READERS

REFUSED = {**REFUSED_BY_WRITERS, **REFUSED_BY_READERS}


@pytest.fixture
def run(tmp_path: Path) -> InProcess:
    """Runs the command in a folder with a few files, where no database may be used."""
    line = '{"event_id": "new_1", "payment_id": "pay_new", "type": "authorize"}'
    (tmp_path / "day.jsonl").write_text(line)
    (tmp_path / "day.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    with zipfile.ZipFile(tmp_path / "day.zip", "w") as archive:
        archive.writestr("day.jsonl", line)
    (tmp_path / "utf16.jsonl").write_text(line, "utf-16")
    for name in ("folder", "no_events"):
        (tmp_path / name).mkdir()
    run = InProcess(tmp_path, None)
    run.environment["PAYPROC_EMBEDDED"] = "never"
    return run


@pytest.mark.parametrize("command", REFUSED)
def test_wrong_usage_of_a_command(run: InProcess, command: str) -> None:
    """Each row is tried in this process; the line is compared as a whole."""
    path = " ".join(["payproc", *filter(None, [command])])
    for arguments, line in REFUSED[command]:
        finished = run(*command.split(), *shlex.split(arguments))
        expected = re.sub(r"(\??) …$", lambda end: f"{end[1] or ';'} see {path} --help", line)
        assert (finished.code, finished.stdout) == (2, ""), arguments
        assert _without_version(finished.stderr) == f"payproc: {expected}\n", arguments


def _without_version(stderr: str) -> str:
    """Return the text as the newest Typer has it."""
    return re.sub(r"extra arguments? \(", "extra argument(s) (", stderr)


def test_every_command_is_tried(run: InProcess) -> None:
    commands = re.findall(r"^  (\w+)  ", run("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert {"", *commands} == set(REFUSED)
    assert all(len(rows) >= 10 for rows in REFUSED.values())


def test_undecodable_arguments_are_refused(run: InProcess) -> None:
    name = "pay_\udcff"
    assert run("show", name).stderr == "payproc: PAYMENT_ID: is not UTF-8, expected UTF-8 text\n"
    resolve = ("resolve", "--dismiss", "--yes")
    assert run(*resolve, "e", "--note", name).stderr == "payproc: --note: is not UTF-8, expected UTF-8 text\n"
    correct = ("correct", "--to", "failed", "--yes")
    assert run(*correct, name, "--note", "x").stderr == "payproc: PAYMENT_ID: is not UTF-8, expected UTF-8 text\n"
    assert run(*resolve, name, "--note", "x").stderr == "payproc: EVENT_ID: is not UTF-8, expected UTF-8 text\n"


def test_a_password_stays_hidden(run: InProcess) -> None:
    for command in REFUSED:
        for option in ("", "--no-such=", "--format=", "-", "--note "):
            finished = run(*command.split(), *f"{option}postgresql://alice:secret@h/d".split())
            assert "secret" not in finished.stdout + finished.stderr, (command, option)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rules", "--format", "MARKDOWN"],
        ["review", "--reason", "Repeated_Refund"],
        ["ingest", "day.jsonl", "--fail-on", "reject"],
        ["show", "pay_new", "--format", "JSON"],
    ],
)
def test_a_choice_is_taken_in_any_case(shared: InProcess, arguments: list[str]) -> None:
    write_lines(shared.folder / "day.jsonl", [event_line("new_1", "pay_new", "authorize")])
    assert shared("ingest", "day.jsonl").code == 0
    assert shared(*arguments).code == 0


def test_wrong_usage_ends_a_process_with_2(payproc: Payproc, sql: Sql) -> None:
    """Closed streams, which only a process has, are tried in tests/cli/test_output.py."""
    before = contents(sql)
    (payproc.folder / "day.jsonl").write_bytes(b'{"event_id": "e1", "payment_id": "p1", "type": "authorize"}')
    finished = payproc("ingest", "day.jsonl", "--workers", "none")
    line = "payproc: --workers: expected a whole number from 1 to 64; see payproc ingest --help\n"
    assert finished == (2, "", line)
    assert contents(sql) == before
