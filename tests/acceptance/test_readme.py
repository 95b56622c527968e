"""The README is true: its sessions are run, its recipes work, and nothing that the program has is missing from it."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.cli.render import MEANING
from payproc.logic import OUTCOME_OF
from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql, contents

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = ("ingest", "show", "review", "resolve", "verify", "rules", "runs", "export", "init")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def sessions() -> list[list[tuple[str, str]]]:
    """The README's sessions: commands, each with what it prints."""
    result = []
    for block in blocks("console"):
        _, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
        result.append([(step.partition("\n")[0], step.partition("\n")[2]) for step in steps])
    return result


def steady(output: str) -> str:
    """Output without what differs from run to run: times, ages, rates, folders, and blanks at line ends."""
    output = re.sub(r"\d+\.\d\d s\b", "T s", output)
    output = re.sub(r"\([\d,]+ events/s\)", "(R events/s)", output)
    output = re.sub(r"\d{4}-\d\d-\d\d( at)? \d\d:\d\d:\d\d", r"YYYY-MM-DD\1 HH:MM:SS", output)
    output = re.sub(r"\b\d+ s *$", "N s", output, flags=re.MULTILINE)
    output = re.sub(r"(embedded PostgreSQL 18) in \S+", r"\1 in FOLDER", output)
    output = re.sub(r"payproc: (creating the embedded|letting the server|copying the server).*\n", "", output)
    return "\n".join(line.rstrip() for line in output.rstrip("\n").splitlines())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Runs a shell command where the samples are, on an embedded database of its own; gives all that it prints."""
    home = tempfile.mkdtemp(prefix="payproc-readme-")
    shutil.copytree(ROOT / "sample_events", tmp_path / "sample_events")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "PAYPROC"))}
    scripts = str(Path(sys.executable).parent)
    environment |= {"PATH": f"{scripts}:{environment['PATH']}", "PAYPROC_HOME": home, "COLUMNS": "80"}

    def run(command: str) -> str:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        ).stdout

    yield run
    shutil.rmtree(home)


def test_the_sessions_print_what_the_readme_says(shell: Callable[[str], str]) -> None:
    for session in sessions():
        for command, printed in session:
            assert steady(shell(command)) == steady(printed), f"$ {command}"


def test_the_decision_table_and_the_diagram_are_what_rules_prints(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    assert f"\n{payproc('rules', '--format', 'markdown').stdout}\n" in README
    assert blocks("mermaid") == [payproc("rules", "--format", "mermaid").stdout]


def test_every_reason_stands_in_it_with_outcome_and_meaning_in_order_of_precedence() -> None:
    described = re.findall(r"^\| `(\w+)` \| ([A-Z_]+) \| (.*?) \|", README, re.MULTILINE)
    assert described == [(reason.value, outcome.value, MEANING[reason]) for reason, outcome in OUTCOME_OF.items()]


def test_every_command_and_option_stands_in_it_and_no_others(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    listed = re.findall(r"^  (\w+)  ", payproc("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    existing = {"--help"}
    for command in ("", *COMMANDS):
        assert f"payproc {command}" in README
        existing |= set(re.findall(r"--[a-z-]+", payproc(*command.split(), "--help").stdout))
    assert {option for option in existing if option not in README} == set()
    own = re.sub(r".*tests/benchmarks/.*", "", README)  # the benchmark has options of its own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)) <= existing


def test_every_exit_code_stands_in_it() -> None:
    table = README.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    codes = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "130, 143, 129", "141"]


def test_the_fields_of_every_object_stand_in_it_in_their_order(payproc: Payproc, sql: Sql) -> None:
    facts = [("e1", "p1", "capture"), ("e2", "p1", "authorize"), ("e1", "p1", "refund")]
    objects = {"`ingest`": payproc.summary("-", stdin=b"\n".join(event_line(*fact) for fact in facts))}
    objects["`review`"] = json.loads(payproc("review", "--format", "json").stdout)
    payproc("resolve", "e1", "--dismiss", "--note", "x", "--yes")
    objects["`show`"] = shown = json.loads(payproc("show", "p1", "--format", "json").stdout)
    objects["an event in `history`"], _, objects["a person's decision in `history`"] = shown["history"]
    (objects["one of `conflicts`"],) = shown["conflicts"]
    objects["`runs`"] = json.loads(payproc("runs", "--format", "json").stdout)
    sql.rows("UPDATE payproc.payments SET version = 9 RETURNING version")
    objects["`verify`"] = found = json.loads(payproc("verify", "--format", "json").stdout)
    (objects["one of `findings`"],) = found["findings"]
    table = README.partition("| object | fields |")[2].partition("\n\n")[0]
    described = {
        name: re.findall(r"`(\w+)`", fields) for name, fields in re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M)
    }
    assert described == {name: list(each) for name, each in objects.items()}


def test_every_sample_stands_in_it_and_every_file_named_exists() -> None:
    listed = re.findall(r"^\| `(\w+\.jsonl)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "sample_events").iterdir())
    for module in re.findall(r"`(\w+\.(?:py|sql))`", README):
        assert list((ROOT / "payproc").rglob(module)), module


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    places = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\((?!https:)([^)]+)\)", README)
    assert {link for link in links if link not in places and not (ROOT / link).exists()} == set()
    assert places <= set(links)


def test_the_two_commands_are_one_line_each_and_the_samples_exist() -> None:
    install, tests = (block.strip() for block in blocks("sh")[:2])
    assert "\n" not in install
    assert (ROOT / install.split()[-1]).is_file()
    assert tests.endswith(".venv/bin/pytest")
    assert "\n" not in tests


# ---- Recipes --------------------------------------------------------------------------------------

RECIPES = dict(re.findall(r"^# (.*)\n(.*)$", blocks("sh")[2], re.MULTILINE))


@pytest.fixture
def recipe(payproc: Payproc, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs the recipe whose title begins so, on a small day and dump."""
    if not shutil.which("jq"):
        pytest.skip("the recipes use jq, which is not installed here")
    day = [event_line("e1", "p1", "authorize"), event_line("e2", "p1", "void"), event_line("e3", "p2", "capture")]
    write_lines(tmp_path / "day.jsonl", day)
    (payproc.folder / "dump.jsonl.gz").write_bytes(gzip.compress(b"\n".join(day[::2])))
    scripts = str(Path(sys.executable).parent)

    def run(title: str) -> subprocess.CompletedProcess[str]:
        (command,) = (command for name, command in RECIPES.items() if name.startswith(title))
        environment = {**payproc.environment, "PATH": f"{scripts}:{payproc.environment['PATH']}"}
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=payproc.folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_the_recipe_that_replays_a_dump(recipe: Callable[[str], Any]) -> None:
    assert "2 events" in recipe("Replay").stdout


def test_the_recipe_that_picks_what_a_person_must_look_at(recipe: Callable[[str], Any]) -> None:
    (picked,) = recipe("Pick").stdout.splitlines()
    assert '"event_id":"e3"' in picked


def test_the_recipe_that_gates_a_script(recipe: Callable[[str], Any], sql: Sql) -> None:
    assert recipe("Gate").returncode == 3
    assert not contents(sql)["events"]


def test_the_recipe_that_mends_malformed_lines(recipe: Callable[[str], Any], sql: Sql) -> None:
    assert recipe("Mend").returncode == 0
    assert [entry[2] for entry in contents(sql)["events"]] == ["e1", "e2", "e3"]


def test_the_recipe_that_copies_what_is_recorded(
    recipe: Callable[[str], Any], payproc: Payproc, bare_url: URL, tmp_path: Path
) -> None:
    payproc("ingest", "day.jsonl")
    payproc.environment["COPY_URL"] = bare_url.set(drivername="postgresql").render_as_string(hide_password=False)
    assert recipe("Copy").returncode == 0
    assert Payproc(tmp_path, bare_url)("export").stdout == payproc("export").stdout != ""


def test_the_recipe_that_follows_a_file(recipe: Callable[[str], Any], payproc: Payproc) -> None:
    (command,) = (command for name, command in RECIPES.items() if name.startswith("Follow"))
    scripts = str(Path(sys.executable).parent)
    environment = {**payproc.environment, "PATH": f"{scripts}:{payproc.environment['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=payproc.folder,
        env=environment,
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
