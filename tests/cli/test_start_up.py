"""Modules that a command imports before it answers: only those that the answer needs.

PYTHONPROFILEIMPORTTIME makes Python list on stderr the modules that a process imports.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command import Finished, Payproc
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess

SLOW = {"pydantic", "rich", "sqlalchemy", "asyncio", "dotenv", "platformdirs", "hmac", "email", "zipfile"}
"""Each takes from 3 to 100 ms of processor time.

The last three come with secrets and parts of importlib.
"""

SLOW_WITHOUT_DATABASE = SLOW | {"psycopg2", "json"}

PROFILE = {"PYTHONPROFILEIMPORTTIME": "1"}


def imported(finished: Finished) -> set[str]:
    """Return the top-level names of the modules that a process has imported."""
    assert finished.code == 0, finished
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", finished.stderr, re.MULTILINE)}


@pytest.mark.parametrize("command", ["--help", "show --help", "rules"])
def test_command_without_a_database_imports_little(tmp_path: Path, command: str) -> None:
    unneeded = SLOW_WITHOUT_DATABASE - ({"json"} if command == "rules" else set())
    names = imported(Payproc(tmp_path, None)(*command.split(), env=PROFILE))
    assert "typer" in names
    assert not names & unneeded


MOST = [
    "ingest day.jsonl --workers 1 --fail-on REJECT",
    "ingest day.jsonl --format json --decisions decided",
    "review --reason predecessor_missing --limit 3",
    "show p1",
]

OTHERS = [
    "resolve e1 --apply --note x --by alice --expect authorized --yes",
    "correct p1 --to failed --note x --by alice --yes",
    "show p1 --format json",
    "payments",
    "history",
    "status",
    "runs --limit 5",
    "verify",
    "export",
    "init",
    "exec true",
]


@pytest.mark.parametrize("commands", [MOST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["most", "others"])
def test_command_imports_nothing_unneeded(payproc: Payproc, run_in_process: InProcess, commands: Sequence[str]) -> None:
    """Ids in other scripts are measured by Rich's tables, so there is none here."""
    facts = [("e1", "p1", "capture"), ("e2", "p1", "authorize")]
    write_lines(payproc.folder / "day.jsonl", [event_line(*fact) for fact in facts])
    run_in_process("ingest", "day.jsonl")
    for command in commands:
        names = imported(payproc(*command.split(), env=PROFILE))
        assert "psycopg2" in names, command
        assert not names & SLOW, command


def test_embedded_database_imports_little(tmp_path: Path) -> None:
    script = "import payproc.db.location, payproc.embedded.server"
    names = imported(Payproc(tmp_path, None)("-c", script, command=sys.executable, env=PROFILE))
    assert "psycopg2" in names
    assert not names & SLOW


@pytest.mark.parametrize("command", ["--help", "ingest --help", "show --help", "init --help", "--version", "rules"])
def test_command_needs_no_database(tmp_path: Path, command: str) -> None:
    """None is created, either."""
    finished = InProcess(tmp_path, None)(*command.split())
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.stdout.startswith("Usage: payproc " if "--help" in command else ("payproc 0.", "State "))
    assert not (tmp_path / "home").exists()
