"""Errors: each is one line on stderr and the right exit code, and nothing is lost or half done."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from sqlalchemy import URL

from payproc.cli.exits import exit_on_errors
from tests.support.command import Payproc, error_line
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Server, Sql, SqlOn, assert_books_right, contents

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


# ---- Which database ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mysql://u:s3cret@h/d", "found a URL of mysql"),
        ("postgresql://h:54x/d", "a port that is not a number from 1 to 65535; in a user or password write @"),
        ("postgresql://u:p@s3cret@h/d", "in a user or password write @ : / ? # as %40 %3A %2F %3F %23"),
    ],
)
def test_bad_url_is_wrong_usage(tmp_path: Path, good: Path, url: str, found: str) -> None:
    """tests/unit/test_location.py has all kinds of bad URLs."""
    line = error_line(Payproc(tmp_path, None)("ingest", "good.jsonl", "--database-url", url), 2)
    assert line.startswith("payproc: --database-url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    assert found in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", ["ingest good.jsonl", "ingest --dry-run good.jsonl", "show p1", "init"])
def test_unreachable_server_exits_with_1(tmp_path: Path, good: Path, command: str) -> None:
    run = InProcess(tmp_path, None)
    line = error_line(run(*command.split(), "--database-url", "postgres://u:s3cret@127.0.0.1:1/d"), 1)
    assert line == "payproc: cannot reach the database postgresql://u@127.0.0.1:1/d: Connection refused"


def test_missing_database_exits_with_1(tmp_path: Path, url: URL, good: Path) -> None:
    line = error_line(InProcess(tmp_path, url.set(database="nowhere"))("ingest", "good.jsonl"), 1)
    assert line.startswith("payproc: cannot reach the database postgresql://")
    assert line.endswith('database "nowhere" does not exist')


def test_option_precedes_variable_precedes_dotenv(tmp_path: Path, url: URL, good: Path) -> None:
    there = url.set(drivername="postgres").render_as_string(hide_password=False)
    run = InProcess(tmp_path, None)
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"OTHER=1\nDATABASE_URL={there}\n")
    assert "(from .env)" in run("ingest", "good.jsonl").stderr
    assert run("ingest", "good.jsonl", env={"DATABASE_URL": NOWHERE}).code == 1
    dotenv.write_text(f"DATABASE_URL={NOWHERE}\n")
    assert run("ingest", "good.jsonl").code == 1
    assert "(from DATABASE_URL)" in run("ingest", "good.jsonl", env={"DATABASE_URL": there}).stderr
    finished = run("ingest", "good.jsonl", "--database-url", there, env={"DATABASE_URL": NOWHERE})
    assert finished.code == 0
    assert "(from --database-url)" in finished.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"DATABASE_URL=\xff\xfe\n", ".env: is not UTF-8, expected UTF-8 text"),
        (b"A=1\nDATABASE_URL: postgresql://h/d\n", ".env:2: cannot be parsed, expected DATABASE_URL=URL"),
        (b'export DATABASE_URL="postgresql://h/d\n', ".env:1: cannot be parsed, expected DATABASE_URL=URL"),
        (b"\n\n  DATABASE_URL\n", ".env:3: cannot be parsed, expected DATABASE_URL=URL"),
    ],
)
def test_unreadable_dotenv_is_refused(tmp_path: Path, good: Path, content: bytes, message: str) -> None:
    """If it were ignored, the command would use another database than the user wrote down."""
    (tmp_path / ".env").write_bytes(content)
    line = error_line(InProcess(tmp_path, None)("ingest", "good.jsonl"), 2)
    assert line == f"payproc: {message}; fix it, or name the database with --database-url"


def test_dotenv_need_not_be_a_file(tmp_path: Path, good: Path) -> None:
    """A pipe is read, a link to nothing is refused, and a folder is a virtual environment."""
    run, dotenv = InProcess(tmp_path, None), tmp_path / ".env"
    run.environment["PAYPROC_EMBEDDED"] = "never"
    os.mkfifo(dotenv)
    with subprocess.Popen(["sh", "-c", f"echo DATABASE_URL={NOWHERE} > .env"], cwd=tmp_path) as other:
        finished = run("ingest", "good.jsonl")
        other.kill()
    assert "(from .env)" in finished.stderr
    dotenv.unlink()
    dotenv.symlink_to("moved")
    line = error_line(run("ingest", "good.jsonl"), 2)
    assert line.startswith("payproc: .env: cannot be read: No such file or directory; fix it, or ")
    dotenv.unlink()
    dotenv.mkdir()
    assert error_line(run("ingest", "good.jsonl"), 2).startswith("payproc: no database is named")


def test_dotenv_lines_about_other_things_are_ignored(tmp_path: Path, url: URL, good: Path) -> None:
    there = url.set(drivername="postgres").render_as_string(hide_password=False)
    others = "what: this\nDATABASE_URL_OF_OTHERS: x\n# DATABASE_URL\n"
    (tmp_path / ".env").write_text(f"{others}DATABASE_URL={there}\n")
    assert InProcess(tmp_path, None)("ingest", "good.jsonl", "--quiet") == (0, "", "")


# ---- Rights --------------------------------------------------------------------------------------


@pytest.fixture
def role(server: Server, bare_url: URL, sql_on: SqlOn) -> Iterator[str]:
    """A role that may connect and no more."""
    name = f"r_{bare_url.database}"
    server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 's3cret'")
    yield name
    sql_on(bare_url).rows(f'DROP OWNED BY "{name}"')
    server.execute(f'DROP ROLE "{name}"')


def test_role_without_rights_gets_advice(tmp_path: Path, bare_url: URL, role: str, good: Path) -> None:
    line = error_line(InProcess(tmp_path, bare_url.set(username=role))("ingest", "good.jsonl"), 1)
    assert f"refused: permission denied for database {bare_url.database}; payproc needs its schema once" in line
    assert "an owner runs `payproc init`" in line


def test_role_with_the_advised_rights_can_ingest(
    tmp_path: Path, bare_url: URL, role: str, good: Path, sql_on: SqlOn
) -> None:
    owner = InProcess(tmp_path, bare_url)
    assert owner("init").stdout == "created the schema payproc\n"
    assert owner("init").stdout == "the schema payproc is up to date\n"
    limited = InProcess(tmp_path, bare_url.set(username=role))
    assert "refused: permission denied for schema payproc; " in error_line(limited("ingest", "good.jsonl"), 1)
    sql_on(bare_url).rows(
        f'GRANT USAGE ON SCHEMA payproc TO "{role}";'
        f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA payproc TO "{role}"'
    )
    assert limited.summary("good.jsonl")["outcomes"]["APPLY"] == 1
    assert "p1" in limited("show", "p1").stdout


def test_read_only_database_names_the_primary(run_in_process: InProcess, sql: Sql, good: Path) -> None:
    """A dry run still works."""
    sql.rows(f'ALTER DATABASE "{sql.url.database}" SET default_transaction_read_only = on')
    line = error_line(run_in_process("ingest", "good.jsonl"), 1)
    assert "in a read-only transaction; connect to the primary, with a role that may write" in line
    assert run_in_process.summary("good.jsonl", "--dry-run")["outcomes"]["APPLY"] == 1
    assert not any(contents(sql).values())


# ---- The schema ----------------------------------------------------------------------------------


def test_missing_schema_exits_with_1(tmp_path: Path, bare_url: URL) -> None:
    """A database that has lost its records never looks healthy."""
    resolve = "resolve e1 --apply --note x --yes"
    reads = ["show p1", "review", "review --format json", "verify", "verify --format json", "runs", "export"]
    reads += ["payments", "history", "history --format json", "status", "status --format json"]
    for command in (resolve, "correct p1 --to failed --note x --yes", *reads):
        finished = InProcess(tmp_path, bare_url)(*command.split())
        line = error_line(finished, 1)
        assert "nothing is recorded: no schema payproc in the database postgresql://" in line
        assert finished.stdout == ""


# ---- Limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [5, 7])
def test_too_few_open_files_exits_with_1(payproc: Payproc, files: int) -> None:
    finished = payproc("verify", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
    assert (finished.code, finished.stdout) == (1, "")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (ImportError("libpcre.so.1: failed to map segment"), "libpcre.so.1: failed to map segment"),
    ],
)
def test_low_limits_are_named(error: Exception, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As under `ulimit -v` and `ulimit -u`."""
    with pytest.raises(typer.Exit), exit_on_errors():
        raise error
    assert capsys.readouterr().err == f"payproc: this session's limits are too low: {found}; see ulimit -a\n"


def test_error_after_a_signal_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """psycopg2 swallows the KeyboardInterrupt of a signal while it imports its errors."""

    def fail() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # until the signal arrives
        raise AttributeError("module 'psycopg2.errors' has no attribute 'UniqueViolation'")

    with pytest.raises(typer.Exit) as ended, exit_on_errors():
        fail()
    assert (ended.value.exit_code, capsys.readouterr().err) == (143, "payproc: interrupted\n")


def test_statement_timeout_names_the_setting(run_in_process: InProcess, sql: Sql, good: Path) -> None:
    """A rerun with more time completes the job."""
    run_in_process("ingest", "good.jsonl")
    lines = [event_line("e2", "p2", "authorize"), event_line("e3", "p1", "capture")]
    write_lines(run_in_process.folder / "more.jsonl", lines)
    with sql.locked_payment("p1"):
        sql.rows(f"ALTER DATABASE \"{sql.url.database}\" SET statement_timeout = '300ms'")
        finished = run_in_process("ingest", "more.jsonl", "--workers", "1")
    assert error_line(finished, 1).endswith(
        "canceling statement due to statement timeout; if it was a timeout, raise statement_timeout for this role"
    )
    sql.rows(f'ALTER DATABASE "{sql.url.database}" RESET statement_timeout')
    assert run_in_process.summary("more.jsonl")["events"] == 2
    assert_books_right(sql)


def test_restored_sequence_is_repaired_by_the_advice(run_in_process: InProcess, sql: Sql, good: Path) -> None:
    """After a restore without sequences, a new run would get the number of an old one."""
    for _ in range(3):
        run_in_process("ingest", "good.jsonl")
    sql.rows("ALTER SEQUENCE payproc.runs_run_id_seq RESTART")
    line = error_line(run_in_process("ingest", "good.jsonl"), 1)
    assert "new runs would get the numbers of existing ones, as after a restore; run: SELECT setval(" in line
    assert sql.value(line.partition("; run: ")[2]) == 3
    assert run_in_process.summary("good.jsonl")["run_id"] == 4
