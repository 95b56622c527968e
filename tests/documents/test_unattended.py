"""The page about unattended runs: its files parse, and their commands run."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.documents.test_documents import EXIT_CODES
from tests.support.command import Payproc
from tests.support.containers import UNNAMED, Container, in_namespaces
from tests.support.documents import SCRIPTS, UNATTENDED, blocks, read, tables
from tests.support.events import event_line
from tests.support.homes import is_running, temporary_folder
from tests.support.manifests import parse_yaml
from tests.support.postgres import Sql

SERVICE, TIMER = blocks(UNATTENDED, "ini")
ENVIRONMENT_FILE, SCRIPT, _ = blocks(UNATTENDED, "sh")
(CRONTAB,) = blocks(UNATTENDED, "crontab")
(DOCKERFILE,) = blocks(UNATTENDED, "dockerfile")
(MANIFEST,) = blocks(UNATTENDED, "yaml")
(DAG,) = blocks(UNATTENDED, "python")

JOBS = [line.split(" ", 5)[5] for line in CRONTAB.splitlines() if line[0] in "0123456789*"]
"""The commands of the crontab."""

RERUN_IS_IN_VAIN = [2, 3]


def parse_unit(text: str) -> configparser.ConfigParser:
    """Parse a systemd unit, in which case and a repeated key matter."""
    unit = configparser.ConfigParser(delimiters="=", interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit


def read_job() -> dict[str, Any]:
    """Return the specification of the job in the manifest."""
    job: dict[str, Any] = parse_yaml(MANIFEST)["spec"]["jobTemplate"]["spec"]
    return job


def read_task(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the DAG's file with a stand-in for Airflow. Return the arguments of its one task."""
    tasks: list[dict[str, Any]] = []

    class Operator:
        def __init__(self, **arguments: Any) -> None:
            tasks.append(arguments)

    class Dag:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    imports = re.findall(r"^from (airflow[\w.]*) import (\w+)$", DAG, re.MULTILINE)
    for name, imported in imports:
        for parent in (name.rsplit(".", count)[0] for count in range(name.count("."), -1, -1)):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        setattr(sys.modules[name], imported, {"BashOperator": Operator, "DAG": Dag}[imported])
    exec(compile(DAG, UNATTENDED, "exec"), {})
    (task,) = tasks
    return task


# ---- Files ---------------------------------------------------------------------------------------


def test_every_exit_code_has_advice() -> None:
    advice = {row[0]: row[1] for row in tables(read(UNATTENDED), "| code | retry | alert | because |")}
    assert list(advice)[: len(EXIT_CODES)] == EXIT_CODES
    assert [code for code in RERUN_IS_IN_VAIN if advice[str(code)] != "no"] == []


def test_crontab_has_valid_lines() -> None:
    field = r"(\*|\d+)"
    for line in CRONTAB.splitlines():
        assert re.fullmatch(rf"[A-Z]+=\S+|({field} ){{5}}\S.*", line), line
        assert not re.search(r"(?<!\\)%", line), line


@pytest.mark.parametrize(("name", "text"), [("payproc.service", SERVICE), ("payproc.timer", TIMER)])
def test_systemd_accepts_units(name: str, text: str, tmp_path: Path) -> None:
    unit = parse_unit(text)
    if name == "payproc.service":
        assert unit["Service"]["RestartPreventExitStatus"].split() == [str(code) for code in RERUN_IS_IN_VAIN]
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed here")
    (tmp_path / "payproc.service").write_text(SERVICE.replace("/usr/local/bin/payproc-day", "/bin/true"))
    (tmp_path / "payproc.timer").write_text(TIMER)
    verify = ["systemd-analyze", "verify", str(tmp_path / name)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    about_it = [line for line in done.stderr.splitlines() if "payproc" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_manifest_has_a_policy_for_exit_codes() -> None:
    job = read_job()
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": RERUN_IS_IN_VAIN}}
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "the policy needs it"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_dockerfile_has_exec_forms() -> None:
    """So payproc is process 1, and no shell keeps its signals."""
    steps = [line.split(" ", 1) for line in DOCKERFILE.splitlines()]
    assert [name for name, _ in steps] == ["FROM", "COPY", "RUN", "RUN", "RUN", "ENV", "ENTRYPOINT", "CMD"]
    assert [json.loads(rest) for _, rest in steps[-2:]] == [["payproc"], ["status"]]


def test_dag_has_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(monkeypatch)
    assert task["output_processor"] is json.loads
    assert task["append_env"], "else the database's URL would be missing"


# ---- Commands ------------------------------------------------------------------------------------


@pytest.fixture
def machine(payproc: Payproc, tmp_path: Path) -> Path:
    """A folder with the files of the page, below the paths that the page gives them."""
    for folder in ("etc", "bin", "var/log/payproc", "var/spool/payproc"):
        (tmp_path / folder).mkdir(parents=True)
    url = payproc.environment["DATABASE_URL"]
    variables = re.sub(r"(?<=DATABASE_URL=).*", lambda _: f"'{url}'", ENVIRONMENT_FILE)
    (tmp_path / "etc" / "payproc.env").write_text(variables)
    script = tmp_path / "bin" / "payproc-day"
    script.write_text(SCRIPT.replace("/var/", f"{tmp_path}/var/"))
    script.chmod(0o755)
    return tmp_path


def run_job(command: str, machine: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command as cron would: in sh, in almost no environment."""
    command = command.replace("/etc/", f"{machine}/etc/").replace("/var/", f"{machine}/var/").replace(r"\%", "%")
    path = f"{machine}/bin:{SCRIPTS}:{os.environ['PATH']}"
    return subprocess.run(
        ["env", "-i", f"HOME={machine}", f"PATH={path}", "sh", "-c", command],
        cwd=machine,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_cron_jobs_print_only_what_is_wrong(machine: Path, sql: Sql) -> None:
    ingest, status, verify, _ = JOBS
    name = "2026-11-23"
    clock = machine / "bin" / "date"
    clock.write_text(f'#!/bin/sh\nexec {shutil.which("date")} "$1" "$2" "2026-11-24 $3" "$4"\n')  # no midnight comes
    clock.chmod(0o755)
    day = machine / "var" / "spool" / "payproc" / f"{name}.jsonl"
    day.write_bytes(event_line("e1", "p1", "authorize") + b"\n")
    old = machine / "var" / "log" / "payproc" / "2020-01-01.jsonl"
    old.touch()
    os.utime(old, (0, 0))
    for job in JOBS:
        done = run_job(job, machine)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), job
    assert sorted(path.name for path in old.parent.iterdir()) == [day.name], "the old file is deleted"
    assert sql.value("SELECT label FROM payproc.runs") == name

    day.write_bytes(event_line("e2", "p1", "void") + b"\n")
    done = run_job(ingest, machine)
    assert (done.returncode, done.stdout) == (3, "")
    assert f'{day}:1: type: unknown "void"' in done.stderr
    day.unlink()
    assert run_job(ingest, machine).returncode == 2
    captures = b"".join(event_line(f"c{number}", f"c{number}", "capture") + b"\n" for number in range(201))
    day.write_bytes(captures)
    assert run_job(ingest, machine).returncode == 0
    done = run_job(status, machine)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "payproc: --max-waiting 200: 201 events need review\n"
    sql.rows("UPDATE payproc.payments SET version = 9 WHERE payment_id = 'p1' RETURNING version")
    assert "wrong_version" in run_job(verify, machine).stdout
    (machine / "etc" / "payproc.env").write_text("PAYPROC_EMBEDDED=never\n")
    assert run_job(status, machine).returncode == 2, "a lost URL leads to no other database"


@pytest.mark.slow
def test_airflow_gets_the_result(payproc: Payproc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow reads both streams as one, and keeps the last line."""
    task = read_task(monkeypatch)
    lines = [event_line("e1", "p1", "authorize"), event_line("e2", "p1", "void")]
    (payproc.folder / "2026-11-23.jsonl").write_bytes(b"\n".join(lines))
    command = task["bash_command"].replace("{{ ds }}", "2026-11-23").replace("/srv/inbox", str(payproc.folder))
    done = subprocess.run(
        ["bash", "-c", command],
        env={**payproc.environment, **task["env"], "PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done
    result = task["output_processor"](done.stdout.splitlines()[-1])
    assert (result["malformed"], result["outcomes"]["APPLY"]) == (1, 1)


@pytest.mark.slow
def test_manifest_runs_its_arguments(payproc: Payproc) -> None:
    (container,) = read_job()["template"]["spec"]["containers"]
    (payproc.folder / "day.jsonl").write_bytes(event_line("e1", "p1", "authorize"))
    arguments = [argument.replace("/inbox", str(payproc.folder)) for argument in container["args"]]
    done = payproc(*arguments, env={"PAYPROC_EMBEDDED": "never"})
    assert (done.code, json.loads(done.stdout)["events"], done.stderr) == (0, 1, "")


@pytest.mark.slow
def test_monitoring_names_real_fields(payproc: Payproc) -> None:
    payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    watched = {row[1].strip("`"): row[2] for row in tables(read(UNATTENDED), "| watch | command | alert |")}
    for command, alert in watched.items():
        done = payproc(*command.partition("`")[0].split()[1:])
        assert done.code == 0, done
        if "jsonl" in command:
            assert set(re.findall(r"`(\w+)`", alert)) <= json.loads(done.stdout).keys()


@in_namespaces
@pytest.mark.slow
def test_image_runs_as_any_uid() -> None:
    """The steps of the Dockerfile run here, and its command in a container of namespaces."""
    with temporary_folder() as machine:
        text = re.sub(r"(?<=[= ])/(opt|data)", rf"{machine}/\1", DOCKERFILE)
        (machine / "opt").mkdir()
        for command in re.findall(r"^RUN (?!pip)(.*)$", text, re.MULTILINE):
            environment = {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
            subprocess.run(["sh", "-c", command], check=True, env=environment, cwd="/", timeout=60)
        (variables,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
        environment = dict(variable.split("=") for variable in variables.split())
        home = Path(environment.pop("PAYPROC_HOME"))
        container = Container(machine / "container", home, UNNAMED, read_only=True, **environment)
        day = event_line("e1", "p1", "authorize").decode()
        assert container.run("ingest", "--quiet", "-", events=day).returncode == 0
        (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
        done = container.run(*json.loads(command))
        assert (done.returncode, "1 authorized" in done.stdout) == (0, True), done
        assert not is_running(home)
