"""Documents agree with the program: commands, options, fields, reasons, exit codes, variables.

The files and links that they name exist.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.logic import OUTCOME_OF
from payproc.verify import Problem
from tests.support.documents import (
    BENCHMARKS,
    CHANGELOG,
    DOCUMENTS,
    FRONT,
    INSIDE,
    REFERENCE,
    ROOT,
    SAMPLES,
    anchors,
    blocks,
    prose,
    read,
    section,
    tables,
)
from tests.support.events import event_line
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

MAX_FRONT_LINES = 200

EXIT_CODES = ["0", "1", "2", "3", "130, 143, 129", "141"]


@cache
def output(*arguments: str) -> str:
    """Return the output of a command that needs no database."""
    return InProcess(ROOT, None)(*arguments).stdout


@cache
def commands() -> list[str]:
    """Return the commands that `--help` lists."""
    return re.findall(r"^  (\w+)  ", output("--help").partition("Commands:")[2], re.MULTILINE)


def options(*command: str) -> set[str]:
    """Return the long options that a command's help lists."""
    return set(re.findall(r"--[a-z-]+", output(*command, "--help").partition("Options:")[2].partition("Example")[0]))


# ---- All documents -------------------------------------------------------------------------------


def test_documents_are_all_listed() -> None:
    folders = [path for path in ROOT.iterdir() if path.name in (".github", "payproc", "sample_events", "tests")]
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    assert sorted(str(path.relative_to(ROOT)) for path in found) == sorted(DOCUMENTS)


def test_front_page_is_short() -> None:
    assert len(read(FRONT).splitlines()) <= MAX_FRONT_LINES


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https:)([^)]+)\)", prose(document)):
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent.joinpath(name).resolve() if name else ROOT / document
        known = anchors(str(target.relative_to(ROOT))) if anchor and target.is_file() else {anchor}
        if not target.exists() or anchor not in known:
            broken.append(link)
    assert broken == []


def test_front_page_leads_to_every_document() -> None:
    seen, left = {FRONT}, [FRONT]
    while left:
        document = left.pop()
        for link in re.findall(r"\]\((?!https:)([^)#]+\.md)[^)]*\)", prose(document)):
            name = str((ROOT / document).parent.joinpath(link).resolve().relative_to(ROOT))
            if name not in seen:
                seen.add(name)
                left.append(name)
    assert seen == set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    """A name in backticks is a file beside the document or below `payproc/`, or a full path."""
    text = read(document)
    for name in re.findall(r"`([\w./-]+\.(?:py|sql|sh)|\.ci/\w+|(?:payproc|tests|sample_events)/[\w./-]*)`", text):
        places = [ROOT, (ROOT / document).parent]
        assert any((place / name).exists() for place in places) or list((ROOT / "payproc").rglob(name)), name
    for path, test in re.findall(
        r"\b((?:tests|sample_events)/[\w/.-]*\w)(?:::(\w+))?", "".join(blocks(document, "sh"))
    ):
        assert (ROOT / path).exists(), path
        assert f"def {test}" in (ROOT / path).read_text() if test else True, test


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each not in (BENCHMARKS, CHANGELOG)])
def test_named_options_exist(document: str) -> None:
    """The benchmarks have options of their own, and the changelog may name removed ones.

    `--arg` is jq's.
    """
    existing = {"--arg"}.union(options(), *(options(command) for command in commands()))
    text = re.sub(r"^docker .*$", "", read(document), flags=re.MULTILINE)  # it has options of its own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= existing


def test_named_variables_exist() -> None:
    """Every variable is documented, and every documented one is read.

    The benchmarks have some of their own.
    """
    folders = [ROOT / "payproc", *(path for path in (ROOT / "tests").iterdir() if path.name != "benchmarks")]
    files = [path for folder in folders for path in [folder, *folder.rglob("*")] if path.suffix == ".py"]
    code = "".join(path.read_text() for path in files)
    known = set(re.findall(r'"(PAYPROC_[A-Z_]+)"', code))
    assert set(re.findall(r"`(PAYPROC_[A-Z_]+)", "".join(map(read, DOCUMENTS)))) == known


# ---- Rules ---------------------------------------------------------------------------------------


def test_decision_table_is_that_of_rules() -> None:
    assert f"\n{output('rules', '--format', 'markdown')}\n" in read(FRONT)


def test_diagram_is_that_of_rules() -> None:
    assert blocks(INSIDE, "mermaid") == [output("rules", "--format", "mermaid")]


def test_reasons_are_explained_in_order() -> None:
    """The order is the order of precedence."""
    meanings = {each["reason"]: each["meaning"] for each in json.loads(output("rules", "--format", "json"))["reasons"]}
    described = [row[:3] for row in tables(read(INSIDE), "| reason | outcome | meaning | explanation |")]
    assert described == [
        [f"`{reason.value}`", outcome.value, meanings[reason.value]] for reason, outcome in OUTCOME_OF.items()
    ]


# ---- Commands ------------------------------------------------------------------------------------


def test_front_page_lists_every_command() -> None:
    listed = [row[0] for row in tables(read(FRONT), "| command | purpose |")]
    assert sorted(cell.strip("`").split()[1] for cell in listed) == sorted(commands())


def command_section(command: str) -> str:
    """Return the section of the reference about a command; two commands share one."""
    return section(REFERENCE, "review and resolve" if command in ("review", "resolve") else command)


def test_reference_lists_the_options_of_a_command() -> None:
    """The table below a command's usage has its options, and the common table has the rest."""
    common = described_options(section(REFERENCE, "Common options"))
    assert common == options() | {"--database-url", "--quiet"}
    for command in commands():
        text = command_section(command)
        assert f"`payproc {command}" in text
        own = described_options(text.partition(f"`payproc {command}")[2].partition("\n`payproc ")[0])
        assert own | (options(command) & common) == options(command), command
        assert not own & common, command


def described_options(text: str) -> set[str]:
    """Return the options that tables describe."""
    return {option for row in tables(text, "| option | meaning |") for option in re.findall(r"--[a-z-]+", row[0])}


def test_reference_lists_the_problems_of_verify() -> None:
    listed = [row[0] for row in tables(section(REFERENCE, "verify"), "| problem | meaning |")]
    assert listed == [f"`{problem.value}`" for problem in Problem]


@pytest.mark.parametrize("document", [FRONT, REFERENCE])
def test_exit_codes_are_listed(document: str) -> None:
    assert [row[0] for row in tables(read(document), "| exit code | meaning |")] == EXIT_CODES


def test_reference_lists_the_fields_of_objects(tmp_path: Path, url: URL, sql: Sql) -> None:
    """In their order."""
    run = InProcess(tmp_path, url)
    described = {name: re.findall(r"`(\w+)`", cell) for name, cell in tables(read(REFERENCE), "| object | fields |")}
    facts = [("e1", "p1", "capture"), ("e2", "p1", "authorize"), ("e1", "p1", "refund")]
    differing = event_line(*facts[1], attempt=2)
    lines = b"\n".join([*(event_line(*fact) for fact in facts), differing, b"[]"])
    objects = {"`ingest`": run.summary("-", "--decisions", "first.jsonl", stdin=lines, code=3)}
    run.summary("-", "--decisions", "second.jsonl", stdin=lines, code=3)
    objects |= decision_objects(run.folder)
    objects["`review`"] = json.loads(run("review", "--format", "json").stdout)
    objects |= status_objects(run)
    resolve = ("resolve", "--all", "--dismiss", "--note", "x", "--yes", "--format", "json")
    objects["`resolve`"] = json.loads(run(*resolve, "--decisions", "results.jsonl").stdout)
    objects["a result of `resolve` in `--decisions`"] = json.loads((run.folder / "results.jsonl").read_text())
    run("correct", "p1", "--to", "captured", "--note", "x", "--yes")
    objects["`show`"] = shown = json.loads(run("show", "p1", "--format", "json").stdout)
    objects["an event in `history`"], _, decision, correction = shown["history"]
    objects |= {"a person's decision in `history`": decision, "a person's correction in `history`": correction}
    (objects["one of `conflicts`"],) = shown["conflicts"]
    (objects["one of `redeliveries`"],) = shown["redeliveries"]
    objects |= listed_objects(run, shown)
    objects["`runs`"] = json.loads(run("runs", "--format", "json", "--limit", "1").stdout)
    sql.rows("UPDATE payproc.payments SET version = 9 RETURNING version")
    objects["`verify`"] = found = json.loads(run("verify", "--format", "json").stdout)
    (objects["one of `findings`"],) = found["findings"]
    objects["`rules`"] = rules = json.loads(output("rules", "--format", "json"))
    objects |= {f"one of `{name}`": rows[0] for name, rows in rules.items()}
    assert described == {name: list(fields) for name, fields in objects.items()}


def status_objects(run: InProcess) -> dict[str, dict[str, Any]]:
    """Return the objects of payments and status by their names in the reference."""
    status = json.loads(run("status", "--format", "json").stdout)
    (by_reason,) = status["waiting_by_reason"].values()
    assert by_reason.keys() == status["waiting"].keys()
    return {
        "`payments`": json.loads(run("payments", "--format", "json", "--limit", "1").stdout),
        "`status`": status,
        "`waiting`, and each of `waiting_by_reason`": by_reason,
        "`oldest_waiting`": status["oldest_waiting"],
    }


def listed_objects(run: InProcess, shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fields that entries have in the command history and not in show."""
    event, conflict, duplicate = (
        json.loads(run("history", "--format", "json", "--limit", "1", *options).stdout)
        for options in (("--kind", "event"), ("--reason", "event_id_conflict"), ("--reason", "duplicate_event"))
    )
    known, known_conflict, redelivery = shown["history"][0], shown["conflicts"][0], shown["redeliveries"][0]
    return {
        "an entry of the command `history`, in addition": {name: 1 for name in event if name not in known},
        "a conflict of the command `history`, in addition": {
            name: 1 for name in conflict if name not in known_conflict
        },
        "a duplicate with other content in `history`, in addition": {
            name: 1 for name in duplicate if name not in redelivery
        },
    }


def decision_objects(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the objects in `--decisions` by the name of their kind in the reference.

    They come from a run and its replay.
    """
    first, second = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("first.jsonl", "second.jsonl")
    )
    event, _, conflict, differing, malformed = first
    duplicate, _, known, *_ = second
    return {
        "an event in `--decisions`": event,
        "a duplicate, in addition": {name: each for name, each in duplicate.items() if name not in event},
        "a duplicate with other content, in addition": {
            name: each for name, each in differing.items() if name not in event
        },
        "a conflict, in addition": {name: each for name, each in conflict.items() if name not in event},
        "a known conflict, in addition": {name: each for name, each in known.items() if name not in event},
        "a malformed line in `--decisions`": malformed,
    }


# ---- Files ---------------------------------------------------------------------------------------


def test_quick_start_is_two_commands_of_one_line() -> None:
    install, tests = (block.strip() for block in blocks(FRONT, "sh")[:2])
    assert "\n" not in install + tests
    assert (ROOT / install.split()[-1]).is_file()
    assert tests.endswith(".venv/bin/pytest")


def test_samples_are_all_described() -> None:
    listed = [row[0].strip("`") for row in tables(read(SAMPLES), "| file | story |")]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "sample_events").glob("*.jsonl"))


def test_map_has_every_module() -> None:
    """If this fails, mend the map in payproc/README.md.

    It has a line for each module and folder of the package.
    """
    listed = [row[0].strip("`/") for row in tables(section(INSIDE, "Map"), "| file or folder | content |")]
    found = [
        path.name for path in (ROOT / "payproc").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted(listed) == sorted(name for name in found if not name.startswith("__"))


def test_layers_have_every_folder() -> None:
    """If this fails, mend the layers in tests/README.md: a line for each folder of tests."""
    listed = [row[0].strip("`/") for row in tables(section("tests/README.md", "Layers"), "| folder | content |")]
    found = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and list(path.glob("*.py"))]
    assert sorted(listed) == sorted(found)
