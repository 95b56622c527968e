"""Help is readable and its examples work; the version is that of the package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.documents import ROOT, run_script
from tests.support.in_process import InProcess

COMMANDS = (
    "ingest",
    "show",
    "review",
    "resolve",
    "correct",
    "payments",
    "history",
    "status",
    "verify",
    "rules",
    "runs",
    "export",
    "init",
    "exec",
)


@pytest.mark.parametrize("width", ["80", pytest.param("200", marks=pytest.mark.slow)])
def test_help_fits_80_columns_and_ends_with_examples(tmp_path: Path, width: str) -> None:
    run = InProcess(tmp_path, None)
    for command in ([], *([each] for each in COMMANDS)):
        finished = run(*command, "--help", env={"COLUMNS": width})
        assert (finished.code, finished.stderr) == (0, "")
        assert max(map(len, finished.stdout.splitlines())) <= 80
        assert examples(finished.stdout), command


def test_ingest_usage_shows_several_files(tmp_path: Path) -> None:
    usage = InProcess(tmp_path, None)("ingest", "--help").stdout.splitlines()[0]
    assert usage == "Usage: payproc ingest [OPTIONS] [FILE]..."


def examples(shown: str) -> list[str]:
    """Return the commands at the end of a help text."""
    return re.findall(r"^    (.*payproc .*)$", shown.partition("\n  Example")[2], re.MULTILINE)


@pytest.mark.slow
def test_help_examples_work(payproc: Payproc) -> None:
    """They run as printed, in order, but on the test's own database server."""
    for name in ("day.jsonl", "dump.jsonl"):
        shutil.copy(ROOT / "sample_events" / "refund_race.jsonl", payproc.folder / name)
    order = {"event_id": "evt_4004", "resolution": "dismiss", "note": "never left the bank"}
    (payproc.folder / "decisions.jsonl").write_text(json.dumps(order))
    subprocess.run(["gzip", "dump.jsonl"], cwd=payproc.folder, check=True)
    named = "postgresql://alice@db.example/payments"
    tried = []
    for command in ("", *COMMANDS):
        for example in examples(payproc(*command.split(), "--help").stdout):
            environment = {**payproc.environment, "COPY_URL": payproc.environment["DATABASE_URL"]}
            script = example.replace(named, f"'{payproc.environment['DATABASE_URL']}'")
            if {"resolve", "correct"} & {*script.split()} and "--yes" not in script:  # it asks, on a terminal
                script += " --yes"
            finished = run_script(script, payproc.folder, environment, "-o", "pipefail")
            assert finished.returncode == 0, (example, finished)
            assert finished.stdout or " > " in example or " -f " in example, example
            tried.append(example)
    assert len(tried) > len(COMMANDS)


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert InProcess(tmp_path, None)("--version").stdout == f"payproc {version[1]}\n"


def test_module_is_the_command(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    assert payproc("-m", "payproc", "rules", command=sys.executable) == payproc("rules")
    refused = payproc("-m", "payproc", "shw", command=sys.executable)
    assert refused.stderr.startswith("payproc: no such command 'shw'")
