"""Sessions and recipes of the documents run as printed, with the printed results."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.embedded.server import run_server
from tests.support.command import Payproc
from tests.support.documents import DOCUMENTS, FRONT, ROOT, SAMPLES, SCRIPTS, blocks, run_script, sessions
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql, contents

RECIPES: dict[str, str] = dict(re.findall(r"^# (.*)\n(.*)$", blocks(SAMPLES, "sh")[0], re.MULTILINE))
"""Commands by title."""

RunRecipe = Callable[[str], subprocess.CompletedProcess[str]]


# ---- Sessions ------------------------------------------------------------------------------------


def normalize(output: str) -> str:
    """Return output without the parts that differ between runs.

    These are times, ages, rates, folders, and blanks at line ends.
    """
    output = re.sub(r"\d+\.\d\d s\b", "T s", output)
    output = re.sub(r"\([\d,]+ events/s\)", "(R events/s)", output)
    output = re.sub(r"\d{4}-\d\d-\d\d( at)? \d\d:\d\d:\d\d", r"YYYY-MM-DD\1 HH:MM:SS", output)
    output = re.sub(r"\b\d+ s *$", "N s", output, flags=re.MULTILINE)
    output = re.sub(r"(embedded PostgreSQL 18) in \S+", r"\1 in FOLDER", output)
    output = re.sub(r"payproc: (creating the embedded|letting the server|copying the server).*\n", "", output)
    return "\n".join(line.rstrip() for line in output.rstrip("\n").splitlines())


@pytest.fixture
def home() -> Iterator[str]:
    """A short path for an embedded database; a session needs no server of its own otherwise."""
    folder = tempfile.mkdtemp(prefix="payproc-documents-")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if sessions(document)])
def test_session_prints_the_output_shown(document: str, home: str, tmp_path: Path) -> None:
    """All sessions of a document run one after another, on a fresh embedded database.

    Its server stays, because starting it takes longer than a command.
    """
    shutil.copytree(ROOT / "sample_events", tmp_path / "sample_events")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "PAYPROC"))}
    environment |= {"PAYPROC_HOME": home, "COLUMNS": "80"}
    with run_server(Path(home)):
        for command, output in (step for session in sessions(document) for step in session):
            finished = run_script(f"{{ {command}\n}} 2>&1", tmp_path, environment)
            assert normalize(finished.stdout) == normalize(output), f"$ {command}"


# ---- Recipes -------------------------------------------------------------------------------------


@pytest.fixture
def recipe(payproc: Payproc, tmp_path: Path) -> RunRecipe:
    """Run the recipe whose title begins so, on a small day and dump."""
    if not shutil.which("jq"):
        pytest.skip("the recipes use jq, which is not installed here")
    day = [event_line("e1", "p1", "authorize"), event_line("e2", "p1", "void"), event_line("e3", "p2", "capture")]
    write_lines(tmp_path / "day.jsonl", day)
    (payproc.folder / "dump.jsonl.gz").write_bytes(gzip.compress(b"\n".join(day[::2])))
    return lambda title: run_script(command_of(title), payproc.folder, payproc.environment, "-o", "pipefail")


def command_of(title: str) -> str:
    """Return the command of the recipe whose title begins so."""
    (command,) = (command for name, command in RECIPES.items() if name.startswith(title))
    return command


def test_front_page_recipes_are_the_same() -> None:
    shown = dict(re.findall(r"^# (.*)\n(.*)$", blocks(FRONT, "sh")[2], re.MULTILINE))
    assert shown
    assert shown.items() <= RECIPES.items()


def test_recipe_replays_a_dump(recipe: RunRecipe) -> None:
    assert "2 events" in recipe("Replay").stdout


def test_recipe_picks_events_for_review(recipe: RunRecipe) -> None:
    (picked,) = recipe("Pick").stdout.splitlines()
    assert '"event_id":"e3"' in picked


def test_recipe_gates_a_script(recipe: RunRecipe, sql: Sql) -> None:
    assert recipe("Gate").returncode == 3
    assert not contents(sql)["events"]


def test_recipe_mends_malformed_lines(recipe: RunRecipe, sql: Sql) -> None:
    assert recipe("Mend").returncode == 0
    assert [entry[2] for entry in contents(sql)["events"]] == ["e1", "e2", "e3"]


def test_recipe_copies_all_records(recipe: RunRecipe, payproc: Payproc, bare_url: URL, tmp_path: Path) -> None:
    payproc("ingest", "day.jsonl")
    payproc.environment["COPY_URL"] = bare_url.set(drivername="postgresql").render_as_string(hide_password=False)
    assert recipe("Copy").returncode == 0
    assert Payproc(tmp_path, bare_url)("export").stdout == payproc("export").stdout != ""


@pytest.mark.usefixtures("recipe")
def test_recipe_follows_a_growing_file(payproc: Payproc) -> None:
    with subprocess.Popen(
        ["bash", "-c", command_of("Follow")],
        cwd=payproc.folder,
        env={**payproc.environment, "PATH": f"{SCRIPTS}:{payproc.environment['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert b'"event_id":"e1"' in process.stdout.readline()
            with (payproc.folder / "day.jsonl").open("ab") as day:
                day.write(b'{"event_id":"e9","payment_id":"p9","type":"authorize"}\n')
            while b'"event_id":"e9"' not in process.stdout.readline():
                pass
        finally:
            os.killpg(process.pid, signal.SIGINT)
