"""What a command imports before it answers: nothing that costs a start and is not needed for the answer.

The environment variable PYTHONPROFILEIMPORTTIME makes Python list on stderr what a process imports.
"""

import os
import pty
import re
import struct
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line

SLOW = {"pydantic", "rich", "sqlalchemy", "asyncio", "dotenv", "platformdirs", "hmac", "email", "zipfile"}
"""Each takes from 3 to 100 ms of processor time. The last three come with secrets and parts of importlib."""

SLOW_WITHOUT_DATABASE = SLOW | {"psycopg2", "json"}


def imported(finished: Any) -> set[str]:
    """Return the top-level names of the modules that a process has imported."""
    assert finished.code == 0, finished
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", finished.stderr, re.MULTILINE)}


@pytest.mark.parametrize("command", ["--help", "show --help", "rules"])
def test_a_command_without_a_database_imports_little(tmp_path: Path, command: str) -> None:
    unneeded = SLOW_WITHOUT_DATABASE - ({"json"} if command == "rules" else set())
    finished = Payproc(tmp_path, None)(*command.split(), env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "typer" in imported(finished)
    assert not imported(finished) & unneeded


def test_no_command_imports_what_it_does_not_need(payproc: Payproc) -> None:
    """Ids in other scripts are measured by Rich's tables, so there is none here."""
    (payproc.folder / "day.jsonl").write_bytes(
        event_line("e1", "p1", "capture") + b"\n" + event_line("e2", "p1", "authorize")
    )
    payproc("ingest", "day.jsonl")  # which creates the schema, with SQLAlchemy
    for command in (
        "ingest day.jsonl --workers 1 --fail-on REJECT",
        "ingest day.jsonl --format json --decisions decided",
        "review --reason predecessor_missing --limit 3",
        "resolve e1 --apply --note x --by alice --expect authorized --yes",
        "show p1",
        "show p1 --format json",
        "runs --limit 5",
        "verify",
        "export",
        "init",
    ):
        finished = payproc(*command.split(), env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert "psycopg2" in imported(finished), command
        assert not imported(finished) & SLOW, command


def test_the_embedded_database_imports_little(tmp_path: Path) -> None:
    finished = Payproc(tmp_path, None)(
        "-c",
        "import payproc.db.location, payproc.embedded.server",
        command=sys.executable,
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert "psycopg2" in imported(finished)
    assert not imported(finished) & SLOW


def test_results_in_a_pipe_are_as_wide_as_the_terminal_beside_it(tmp_path: Path) -> None:
    """As in `payproc rules | less`: the terminal is not stdout, but stdin."""
    payproc = Payproc(tmp_path, None)
    del payproc.environment["COLUMNS"]
    terminal, its_end = pty.openpty()
    ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
    with payproc.start("rules", stdin=its_end, env={"TERM": "xterm"}) as process:
        beside = process.communicate()[0].decode()
    shown = [beside, *(payproc("rules", env={"TERM": term}).stdout for term in ("xterm", "dumb"))]
    os.close(its_end)
    os.close(terminal)
    assert [len(each.splitlines()[1]) for each in shown] == [60, 73, 73]


def test_a_stream_that_is_not_unicode_gets_a_rule_of_hyphens(tmp_path: Path) -> None:
    shown = Payproc(tmp_path, None)("rules", env={"PYTHONIOENCODING": "ascii"}).stdout.splitlines()
    assert set(shown[1]) == {"-"}
