"""Passwords: no command prints one, wherever it is typed and however a server answers."""

import os
import re
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.passwords import ENCODED, PARTLY, SECRET, URLS, assert_no_password, echo_server
from tests.support.postgres import Server, Sql
from tests.support.tally import count

slow = pytest.mark.slow

DEBUGGING = {"PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1", "PAYPROC_DEBUG": "1"}
"""Python's own debugging aids, and payproc's. They must know no password, either."""


def test_no_url_gives_its_password_away(tmp_path: Path) -> None:
    """Each URL is tried as the option, as the variable and in .env."""
    run = InProcess(tmp_path, None)
    for url in URLS:
        (tmp_path / ".env").write_bytes(b"DATABASE_URL='" + os.fsencode(url.replace("'", "")) + b"'\n")
        in_file = run("verify")
        (tmp_path / ".env").unlink()
        given, in_variable = run("init", "--database-url", url), run("show", "p", env={"DATABASE_URL": url})
        for finished in (given, in_variable, in_file):
            assert finished.code in (1, 2), url
            assert_no_password(finished.output, url)
            assert "fault in payproc" not in finished.output
            assert 1 <= finished.output.count("\n") <= 2
        count("URLs with a password tried")


@pytest.mark.parametrize("command", ["ingest --help", "--help", "rules"])
def test_help_does_not_print_the_variable(tmp_path: Path, command: str) -> None:
    for url in URLS[:3]:
        assert_no_password(InProcess(tmp_path, None)(*command.split(), env={"DATABASE_URL": url}).output, url)


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=slow)], ids=["some", "all"])
def test_misplaced_url_is_not_printed(run_in_process: InProcess, step: int) -> None:
    for url in [url for url in URLS if re.search("://.*@|password", url)][::step]:
        for arguments in (
            ("init", url),
            ("ingest", url),
            ("ingest", "--decisions", f"no/{url}", os.devnull),
            (url,),
            ("show", url),
            ("ingest", f"--malformed=no/{url}", os.devnull),
            ("ingest", f"--database-url:{url}"),
            ("runs", "--limit", url),
            ("ingest", f"--no-such={url}"),
            ("ingest", f"-{url}"),
            ("resolve", url, "--apply", "--note", "x", "--yes"),
            ("correct", url, "--to", "failed", "--note", "x", "--yes"),
            ("correct", "p", "--note", "x", "--yes", "--to", url),
            ("review", "--reason", url),
            ("history", "--since", url),
            ("history", "--run", url),
            ("payments", "--older-than", url),
            ("status", "--max-age", url),
            ("resolve", "e", "--apply", "--note", "x", "--yes", "--expect", url),
        ):
            finished = run_in_process(*arguments)
            assert finished.code in (1, 2), arguments
            assert_no_password(finished.output, arguments)


@pytest.mark.parametrize(
    ("form", "environment"),
    [
        (f"postgresql://u:{PARTLY}@127.0.0.1:PORT/d", {}),
        (f"postgresql://u:{ENCODED}@127.0.0.1:PORT/d", {}),
        (f"postgresql+psycopg2://u@127.0.0.1:PORT/d?password={PARTLY}", {}),
        ("postgresql://u@127.0.0.1:PORT/d", {"PGPASSWORD": SECRET}),
    ],
    ids=["in the URL", "encoded", "parameter", "PGPASSWORD"],
)
def test_password_repeated_by_a_server_is_masked(tmp_path: Path, form: str, environment: dict[str, str]) -> None:
    with echo_server() as server:
        url = form.replace("PORT", str(server.port))
        finished = Payproc(tmp_path, None)("init", "--database-url", url, env={**environment, **DEBUGGING})
    assert server.received == [SECRET]
    assert finished.code == 1
    assert 'password "***" is wrong for user "u"' in finished.stderr
    assert_no_password(finished.output, url)


@pytest.mark.parametrize("password", ["a", "wrong", "for", "password"])
def test_mask_does_not_reveal_an_ordinary_word(tmp_path: Path, password: str) -> None:
    """If every occurrence were masked, the words around would tell which one it is."""
    with echo_server() as server:
        url = f"postgresql://u:{password}@127.0.0.1:{server.port}/d"
        finished = InProcess(tmp_path, None)("init", "--database-url", url)
    assert server.received == [password]
    assert finished.stderr.endswith(f':{server.port}/d: password "***" is wrong for user "u"\n')


@pytest.mark.parametrize("password", ["a", "server", "refused"])
def test_mask_spares_the_words_of_libpq(tmp_path: Path, password: str) -> None:
    finished = InProcess(tmp_path, None)("init", "--database-url", f"postgresql://u:{password}@127.0.0.1:1/d")
    assert finished.stderr.endswith("127.0.0.1:1/d: Connection refused\n")


@slow
def test_password_is_not_kept(payproc: Payproc, sql: Sql, server: Server, url: URL) -> None:
    """After a lost connection, neither messages nor records nor the server's log have it."""
    write_lines(payproc.folder / "first", [event_line("e1", "p1", "authorize")])
    write_lines(payproc.folder / "more", [event_line("e2", "p1", "capture")])
    environment = {**DEBUGGING, "DATABASE_URL": ""}
    given = f"postgresql://payproc:{PARTLY}@/{url.database}?host={url.query['host']}&sslpassword={ENCODED}"
    first = payproc("ingest", "first", "--database-url", given, env=environment)
    assert first.code == 0, first
    with sql.locked_payment("p1"):
        process = payproc.start("ingest", "more", "--workers", "1", "--database-url", given, env=environment)
        blocked = sql.wait_for_blocked()
        activity = sql.rows("SELECT * FROM pg_stat_activity WHERE pid = %s", blocked)
        server.execute(f'ALTER DATABASE "{url.database}" WITH ALLOW_CONNECTIONS false')
        server.execute(f"SELECT pg_terminate_backend({blocked})")
        stdout, stderr = process.communicate(timeout=60)
    server.execute(f'ALTER DATABASE "{url.database}" WITH ALLOW_CONNECTIONS true')
    assert process.returncode == 1
    assert b"not currently accepting connections" in stderr
    missing = payproc("init", "--database-url", given.replace(url.database or "", "nowhere"), env=environment)
    assert 'database "nowhere" does not exist' in missing.stderr
    kept = sql.rows("SELECT to_jsonb(runs)::text FROM payproc.runs")
    outputs = [first.output, stdout.decode(), stderr.decode(), missing.output, str(kept), str(activity)]
    log = Path(str(url.query["host"])) / "log"
    if log.exists():  # the embedded server's; other servers keep theirs elsewhere
        outputs.append(log.read_text(errors="replace"))
    for output in outputs:
        assert_no_password(output, "")
