"""Everything a user can get wrong, and what the database can: one line, the right exit code, nothing lost."""

import bz2
import gzip
import json
import os
import pty
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql, assert_books_right, contents

COMMAND = Path(sys.executable).with_name("payproc")

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "good.jsonl", [event_line("e1", "p1", "authorize")])


def error(finished: Any, code: int) -> str:
    """The one line that a failed command ends with."""
    assert finished.code == code, finished
    lines = [row for row in finished.stderr.splitlines() if not row.startswith("payproc: database ")]
    assert len(lines) == 1, finished.stderr
    return str(lines[0])


# ---- Wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("missing.jsonl", lambda _: None, "missing.jsonl: cannot be read: No such file or directory"),
        ("folder", Path.mkdir, "folder: is a directory, expected a file of JSON Lines; name its files, as in folder/*"),
        (
            "day.gz",
            lambda path: path.write_bytes(gzip.compress(b"{}")),
            "day.gz: is compressed with gzip, expected JSON Lines in UTF-8; use: zcat day.gz | payproc ingest -",
        ),
        (
            "day.bz2",
            lambda path: path.write_bytes(bz2.compress(b"{}")),
            "day.bz2: is compressed with bzip2, expected JSON Lines in UTF-8; use: bzcat day.bz2 | payproc ingest -",
        ),
        (
            "le",
            lambda path: path.write_bytes('{"event_id":"e1"}'.encode("utf-16")),
            "le: is UTF-16, expected JSON Lines in UTF-8; use: iconv -f UTF-16 -t UTF-8 le | payproc ingest -",
        ),
        (
            "be",
            lambda path: path.write_bytes('\ufeff{"event_id":"e1"}'.encode("utf-16-be")),
            "be: is UTF-16, expected JSON Lines in UTF-8; use: iconv -f UTF-16 -t UTF-8 be | payproc ingest -",
        ),
        ("a/b", lambda _: None, "a/b: cannot be read: No such file or directory"),
        ("good.jsonl/b", lambda _: None, "good.jsonl/b: cannot be read: Not a directory"),
    ],
)
def test_input_that_cannot_be_ingested_is_refused_before_anything_is_ingested(
    payproc: Payproc, good: Path, sql: Sql, name: str, make: Callable[[Path], object], said: str
) -> None:
    make(payproc.folder / name)
    assert error(payproc("ingest", "good.jsonl", name), 2) == f"payproc: {said}"
    assert not any(contents(sql).values())


@needs_permissions
def test_an_unreadable_file_is_refused(payproc: Payproc, good: Path) -> None:
    good.chmod(0)
    assert error(payproc("ingest", "good.jsonl"), 2) == "payproc: good.jsonl: cannot be read: Permission denied"


def test_compressed_standard_input_is_refused(payproc: Payproc) -> None:
    said = error(payproc("ingest", "-", stdin=gzip.compress(b"{}")), 2)
    assert said == (
        "payproc: <stdin>: is compressed with gzip, expected JSON Lines in UTF-8; use: zcat FILE | payproc ingest -"
    )


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "a BOM"])
def test_an_empty_file_is_a_run_of_no_lines(payproc: Payproc, content: bytes) -> None:
    (payproc.folder / "empty").write_bytes(content)
    summary = payproc.summary("empty")
    assert (summary["lines"], summary["events"], summary["reasons"]) == (0, 0, {})


def test_a_file_of_nothing_but_binary_data_is_malformed_lines(payproc: Payproc, sql: Sql) -> None:
    (payproc.folder / "noise").write_bytes(bytes(range(256)) * 1000 + b"\n" + b"\0" * 5000)
    summary = payproc.summary("noise", code=3)
    assert summary["lines"] == summary["malformed"] > 2
    assert not any(contents(sql).values())


def test_good_lines_around_bad_ones_are_recorded(payproc: Payproc, tmp_path: Path) -> None:
    huge = b'{"event_id":"e9","payment_id":"p1","type":"refund","x":"' + b"y" * (50 << 20) + b'"}'
    write_lines(tmp_path / "x", [event_line("e1", "p1", "authorize"), b"\xff", huge, event_line("e2", "p1", "capture")])
    finished = payproc("ingest", "x", "--format", "json")
    assert json.loads(finished.stdout)["outcomes"]["APPLY"] == 2
    assert finished.stderr.splitlines()[1:] == [
        "x:2: not UTF-8: byte 0xff at offset 0, expected UTF-8 text",
        "x:3: line too long: over 1,048,576 bytes, expected one JSON object a line of at most 1 MiB",
    ]


# ---- Wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-", "-"], "-: given twice, but standard input can be read only once"),
        (
            ["good.jsonl", "--malformed", "good.jsonl"],
            "--malformed: good.jsonl is also an input, and would be overwritten; name another file",
        ),
        (
            ["good.jsonl", "--decisions", "./link.jsonl"],
            "--decisions: ./link.jsonl is also an input, and would be overwritten; name another file",
        ),
        (
            ["good.jsonl", "--decisions", "x", "--malformed", "x"],
            "--decisions and --malformed both name x; name two files",
        ),
        (
            ["good.jsonl", "--decisions", "new", "--malformed", "./new"],
            "--decisions and --malformed both name ./new; name two files",
        ),
        (
            ["good.jsonl", "--decisions", "-", "--malformed", "-"],
            "--decisions and --malformed both name -; name two files",
        ),
        (
            ["good.jsonl", "--decisions", "no/such/folder"],
            "--decisions: no/such/folder cannot be written: No such file or directory",
        ),
        (["good.jsonl", "--malformed", "."], "--malformed: . cannot be written: Is a directory"),
    ],
)
def test_outputs_never_overwrite_an_input_or_each_other(
    payproc: Payproc, good: Path, sql: Sql, arguments: list[str], said: str
) -> None:
    before = good.read_bytes()
    (payproc.folder / "link.jsonl").symlink_to(good)
    assert error(payproc("ingest", *arguments), 2) == f"payproc: {said}"
    assert good.read_bytes() == before
    assert not any(contents(sql).values())


@pytest.mark.parametrize(
    "command",
    [
        '"$0" ingest --malformed good.jsonl < good.jsonl',
        '"$0" ingest good.jsonl --decisions - >> good.jsonl',
        'cat good.jsonl | "$0" ingest - good.jsonl --decisions ./good.jsonl',
    ],
)
def test_an_input_that_comes_by_redirection_is_not_overwritten_either(
    payproc: Payproc, good: Path, sql: Sql, command: str
) -> None:
    before = good.read_bytes()
    finished = subprocess.run(
        ["bash", "-c", command, COMMAND], cwd=payproc.folder, env=payproc.environment, check=False, capture_output=True
    )
    assert finished.returncode == 2
    assert b"is also an input, and would be overwritten; name another file" in finished.stderr
    assert good.read_bytes() == before
    assert not any(contents(sql).values())


def test_what_an_output_held_is_kept_until_nothing_stands_in_the_way(payproc: Payproc, good: Path) -> None:
    kept = payproc.folder / "kept"
    kept.write_text("from yesterday")
    nowhere = "postgresql://u@127.0.0.1:1/d"
    assert payproc("ingest", "good.jsonl", "--decisions", "kept", "--database-url", nowhere).code == 1
    assert payproc("ingest", "good.jsonl", "--decisions", "kept", "--malformed", "no/such/folder").code == 2
    assert kept.read_text() == "from yesterday"
    assert payproc("ingest", "good.jsonl", "--decisions", "kept").code == 0
    assert kept.read_text().startswith('{"source":"good.jsonl"')


def test_without_a_file_on_a_terminal_there_is_nothing_to_ingest(payproc: Payproc) -> None:
    terminal, its_end = pty.openpty()
    with payproc.start("ingest", stdin=its_end) as process:
        _, stderr = process.communicate(timeout=30)
    os.close(its_end)
    os.close(terminal)
    assert process.returncode == 2
    assert stderr == b"payproc: nothing to ingest: name a file, or pipe events in (- reads what you type)\n"


def test_a_disk_that_fills_up_in_the_middle_of_a_report_is_not_passed_over(
    payproc: Payproc, tmp_path: Path, sql: Sql
) -> None:
    """A write may take only part of what it is given, with or without Python's own buffer in between."""
    write_lines(
        tmp_path / "many.jsonl", [event_line(f"e{number}", f"p{number}", "authorize") for number in range(3000)]
    )
    command = 'ulimit -f 100; trap "" XFSZ; exec "$0" ingest many.jsonl --quiet --decisions - > small'
    for more in ({}, {"PYTHONUNBUFFERED": "1"}):
        finished = subprocess.run(
            ["bash", "-c", command, COMMAND],
            cwd=payproc.folder,
            env={**payproc.environment, **more},
            check=False,
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 1, finished
        assert "--decisions: cannot be written: File too large" in finished.stderr
    assert sql.value("SELECT count(*) FROM payproc.events") == 3000
    assert sql.rows("SELECT lines, finished_at FROM payproc.runs ORDER BY run_id") == [(3000, None), (3000, None)]


def test_a_report_that_cannot_be_written_ends_the_run_with_one_line(payproc: Payproc, good: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        finished = payproc("ingest", "good.jsonl", "--decisions", "-", stdout=full)
    assert "payproc: --decisions: cannot be written: No space left on device; what was recorded" in finished.stderr
    assert finished.code == 1
    with Path("/dev/full").open("wb") as full:
        assert error(payproc("ingest", "good.jsonl", stdout=full), 1).endswith("No space left on device")


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_standard_streams_are_refused(payproc: Payproc, good: Path, closed: str) -> None:
    """Going on would read from, or write into, whatever is opened next under the number of the closed one."""
    finished = subprocess.run(
        ["bash", "-c", f'"$0" ingest good.jsonl {closed}', COMMAND],
        cwd=payproc.folder,
        env=payproc.environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr == (
        "payproc: standard input or output is closed; use /dev/null for one that is not needed\n"
    )


# ---- The database ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mysql://u:s3cret@h/d", "found a URL of mysql"),
        ("not a url s3cret", "found no postgresql:// at its start"),
        (
            "postgresql://u:s3cret@h/d?no_such=1",
            'found the parameter "no_such" that PostgreSQL\'s client library does not accept',
        ),
        ("postgresql://u:p/x?s3cret=1@h/d", "found a URL that PostgreSQL's client library does not accept"),
        (
            "postgresql://h:54x/d",
            "found a port that is not a number; in a user or password write @ : / ? # as %40 %3A %2F %3F %23",
        ),
        ("", "found nothing"),
        ("'postgresql://u:s3cret@h/d'", "found quotation marks around it"),
        ("postgresql://u:p/s3cret@h/d", "in a user or password write @ : / ? # as %40 %3A %2F %3F %23"),
        ("postgresql://u:p@s3cret@h/d", "in a user or password write @ : / ? # as %40 %3A %2F %3F %23"),
        ("postgresql://u%3As3cret@h/d", "in a user or password write @ : / ? # as %40 %3A %2F %3F %23"),
        ("postgresql://u:s3cret", "in a user or password write @ : / ? # as %40 %3A %2F %3F %23"),
    ],
)
def test_a_url_that_is_none_is_wrong_usage(payproc: Payproc, good: Path, given: str, said: str) -> None:
    said_of_it = error(payproc("ingest", "good.jsonl", "--database-url", given), 2)
    assert said_of_it.startswith("payproc: --database-url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    assert said_of_it.endswith(said)
    assert "s3cret" not in said_of_it


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (["ingest", "good.jsonl"], "postgresql://u:s3cret@127.0.0.1:1/d"),
        (["show", "p1"], "postgres://u:s3cret@localhost:1/d"),
        (["init"], "postgresql+psycopg2://u@127.0.0.1:1/d?password=s3cret"),
        (["ingest", "--dry-run", "good.jsonl"], "postgresql://u:s%33cret@127.0.0.1:1/d?sslpassword=s3cret"),
    ],
)
def test_an_unreachable_server_is_one_line_without_a_password(
    payproc: Payproc, good: Path, command: list[str], given: str
) -> None:
    finished = payproc(*command, "--database-url", given)
    said = error(finished, 1)
    assert said.startswith("payproc: cannot reach the database postgresql://u@")
    assert "Connection refused" in said
    assert "s3cret" not in finished.stdout + finished.stderr
    assert "s%33cret" not in finished.stdout + finished.stderr


def test_a_missing_database_is_one_line(tmp_path: Path, url: URL, good: Path) -> None:
    said = error(Payproc(tmp_path, url.set(database="nowhere"))("ingest", "good.jsonl"), 1)
    assert said.startswith("payproc: cannot reach the database postgresql://")
    assert said.endswith('database "nowhere" does not exist')


@pytest.fixture
def role(server: Any, bare_url: URL) -> Any:
    """A role that may connect and no more."""
    name = f"r_{bare_url.database}"
    server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 's3cret'")
    yield name
    with server.connect(bare_url.database) as connection, connection.cursor() as cursor:
        cursor.execute(f'DROP OWNED BY "{name}"')
    connection.close()
    server.execute(f'DROP ROLE "{name}"')


def test_a_role_that_may_not_create_the_schema_is_told_what_it_needs(
    tmp_path: Path, bare_url: URL, role: str, good: Path
) -> None:
    said = error(Payproc(tmp_path, bare_url.set(username=role))("ingest", "good.jsonl"), 1)
    assert f"refused: permission denied for database {bare_url.database}; payproc needs its schema once" in said
    assert "an owner runs `payproc init`" in said


def test_a_role_with_the_rights_that_the_message_names_can_ingest_and_show(
    tmp_path: Path, bare_url: URL, role: str, good: Path, server: Any
) -> None:
    assert Payproc(tmp_path, bare_url)("init").stdout == "created the schema payproc\n"
    assert Payproc(tmp_path, bare_url)("init").stdout == "the schema payproc is up to date\n"
    limited = Payproc(tmp_path, bare_url.set(username=role))
    assert "refused: permission denied for schema payproc; " in error(limited("ingest", "good.jsonl"), 1)
    with server.connect(bare_url.database) as connection, connection.cursor() as cursor:
        cursor.execute(f'GRANT USAGE ON SCHEMA payproc TO "{role}"')
        cursor.execute(f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA payproc TO "{role}"')
    connection.close()
    assert limited.summary("good.jsonl")["outcomes"]["APPLY"] == 1
    assert "p1" in limited("show", "p1").stdout


def test_a_read_only_role_is_told_to_use_the_primary(payproc: Payproc, sql: Sql, good: Path) -> None:
    sql.rows(f'ALTER DATABASE "{sql.url.database}" SET default_transaction_read_only = on')
    said = error(payproc("ingest", "good.jsonl"), 1)
    assert "in a read-only transaction; connect to the primary, with a role that may write" in said
    assert payproc.summary("good.jsonl", "--dry-run")["outcomes"]["APPLY"] == 1
    assert not any(contents(sql).values())


def test_a_schema_that_is_not_payprocs_is_left_alone(tmp_path: Path, bare_url: URL, server: Any, good: Path) -> None:
    payproc = Payproc(tmp_path, bare_url)
    with server.connect(bare_url.database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA payproc CREATE TABLE events (x text)")
    connection.close()
    for command in (["ingest", "good.jsonl"], ["show", "p1"], ["init"], ["ingest", "--dry-run", "good.jsonl"]):
        assert "is not payproc's: it holds 1 tables and indexes of something else" in error(payproc(*command), 1)


@pytest.mark.parametrize("files", [5, 7])
def test_too_few_open_files_are_one_line(payproc: Payproc, files: int) -> None:
    finished = payproc("verify", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
    assert finished.code == 1
    assert finished.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        "show p1",
        "review",
        "review --format json",
        "resolve e1 --apply --note x --yes",
        "verify",
        "runs",
        "export",
        pytest.param("verify --format json", marks=pytest.mark.slow),
    ],
)
def test_a_database_without_the_schema_is_never_healthy(tmp_path: Path, bare_url: URL, command: str) -> None:
    finished = Payproc(tmp_path, bare_url)(*command.split())
    assert "nothing is recorded: no schema payproc in the database postgresql://" in error(finished, 1)
    assert finished.stdout == ""


def test_a_newer_schema_is_left_alone(payproc: Payproc, sql: Sql, good: Path) -> None:
    sql.rows("COMMENT ON TABLE payproc.runs IS 'payproc schema version 99, procedure 0123456789abcdef'")
    for command in (["ingest", "good.jsonl"], ["ingest", "--dry-run", "good.jsonl"], ["show", "p1"], ["init"]):
        said = error(payproc(*command), 1)
        assert "has version 99, and this payproc is older than the schema: it knows version 2; install a newer" in said


def test_a_statement_timeout_is_one_line_and_a_rerun_completes(
    payproc: Payproc, sql: Sql, tmp_path: Path, good: Path
) -> None:
    payproc("ingest", "good.jsonl")
    write_lines(tmp_path / "more.jsonl", [event_line("e2", "p2", "authorize"), event_line("e3", "p1", "capture")])
    sql.rows(f"ALTER DATABASE \"{sql.url.database}\" SET statement_timeout = '300ms'")
    with sql.locked_payment("p1"):
        said = error(payproc("ingest", "more.jsonl", "--workers", "1"), 1)
    assert said.endswith(
        "canceling statement due to statement timeout; if it was a timeout, raise statement_timeout for this role"
    )
    assert payproc.summary("more.jsonl")["events"] == 2
    assert_books_right(sql)


def test_run_numbers_behind_the_existing_runs_are_put_right_by_the_statement_that_is_named(
    payproc: Payproc, sql: Sql, good: Path
) -> None:
    """As after a restore without sequences."""
    for _ in range(3):
        payproc("ingest", "good.jsonl")
    sql.rows("ALTER SEQUENCE payproc.runs_run_id_seq RESTART")
    said = error(payproc("ingest", "good.jsonl"), 1)
    assert "new runs would get the numbers of existing ones, as after a restore; run: SELECT setval(" in said
    assert sql.value(said.partition("; run: ")[2]) == 3
    assert payproc.summary("good.jsonl")["run_id"] == 4


# ---- Which database -------------------------------------------------------------------------------


def test_the_option_comes_before_the_variable_and_the_variable_before_dotenv(
    tmp_path: Path, url: URL, good: Path
) -> None:
    there = url.set(drivername="postgres").render_as_string(hide_password=False)
    nowhere = "postgresql://nobody@127.0.0.1:1/nowhere"
    payproc = Payproc(tmp_path, None)
    (payproc.folder / ".env").write_text(f"OTHER=1\nDATABASE_URL={there}\n")
    assert "(from .env)" in payproc("ingest", "good.jsonl").stderr
    assert payproc("ingest", "good.jsonl", env={"DATABASE_URL": nowhere}).code == 1
    (payproc.folder / ".env").write_text(f"DATABASE_URL={nowhere}\n")
    assert payproc("ingest", "good.jsonl").code == 1
    assert "(from DATABASE_URL)" in payproc("ingest", "good.jsonl", env={"DATABASE_URL": there}).stderr
    finished = payproc("ingest", "good.jsonl", "--database-url", there, env={"DATABASE_URL": nowhere})
    assert finished.code == 0
    assert "(from --database-url)" in finished.stderr


def test_a_dotenv_that_cannot_be_read_is_not_passed_over(tmp_path: Path, good: Path) -> None:
    """Going on would mean another database than the one that the user wrote down."""
    payproc = Payproc(tmp_path, None)
    for written, said in (
        (b"DATABASE_URL=\xff\xfe\n", ".env: is not UTF-8, expected UTF-8 text"),
        (b"A=1\nDATABASE_URL: postgresql://h/d\n", ".env:2: cannot be parsed, expected DATABASE_URL=URL"),
        (b'export DATABASE_URL="postgresql://h/d\n', ".env:1: cannot be parsed, expected DATABASE_URL=URL"),
        (b"\n\n  DATABASE_URL\n", ".env:3: cannot be parsed, expected DATABASE_URL=URL"),
    ):
        (payproc.folder / ".env").write_bytes(written)
        advice = "; mend it, or name the database with --database-url"
        assert error(payproc("ingest", "good.jsonl"), 2) == f"payproc: {said}{advice}"


def test_a_line_of_a_dotenv_that_is_not_about_the_database_is_passed_over(tmp_path: Path, url: URL, good: Path) -> None:
    payproc = Payproc(tmp_path, None)
    there = url.set(drivername="postgres").render_as_string(hide_password=False)
    (payproc.folder / ".env").write_text(
        f"what: this\nDATABASE_URL_OF_OTHERS: x\n# DATABASE_URL\nDATABASE_URL={there}\n"
    )
    assert payproc("ingest", "good.jsonl", "--quiet") == (0, "", "")


def test_help_and_version_need_no_database(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    for command in ([], ["ingest"], ["show"], ["init"]):
        finished = payproc(*command, "--help")
        assert finished.code == 0
        assert finished.stdout.startswith("Usage: payproc ")
    assert payproc("--version").stdout.startswith("payproc 0.")
    assert not (payproc.folder / "home").exists()
