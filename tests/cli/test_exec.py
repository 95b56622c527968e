"""Programs of the user on the database of a command: their environment, streams and exit codes."""

import signal
import subprocess
from contextlib import closing

import pytest
from sqlalchemy import URL, make_url

from payproc.cli.exec import _build_path
from payproc.db.variables import Target
from payproc.embedded.binaries import BINARIES_VARIABLE, find_wheel
from tests.support.command import COMMAND, Payproc
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, wait_for
from tests.support.terminal import open_terminal, take_terminal

NAMES = "SELECT current_database(), current_setting('transaction_read_only')"

COUNT = "SELECT count(*) FROM payproc.payments"

INSERT = "INSERT INTO payproc.payments (payment_id, state, version) VALUES ('p1', 'created', 1)"


def find_url(run: InProcess) -> URL:
    """Return the URL of its database."""
    return make_url(run.environment["DATABASE_URL"])


# ---- Programs ------------------------------------------------------------------------------------


def test_streams_are_the_programs(shared: InProcess) -> None:
    """A dump is written byte for byte, and payproc adds nothing to it."""
    content = bytes(range(256)) * 300
    (shared.folder / "content").write_bytes(content)
    finished = shared("exec", "sh", "-c", "cat > copy; cmp copy content; echo done; echo told >&2", stdin=content)
    assert (finished.code, finished.stdout) == (0, "done\n")
    note, told = finished.stderr.splitlines()
    assert note.startswith("payproc: database ")
    assert told == "told"


def test_exit_code_is_the_programs(shared: InProcess) -> None:
    """Everything after the program's name belongs to it."""
    for command, code in (
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -INT $$"], 128 + signal.SIGINT),
        (["--", "sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit $#", "sh", "--write", "-q", "--", "-h"], 4),
    ):
        assert shared("exec", "-q", *command) == (code, "", ""), command


def test_program_that_cannot_start_is_named(shared: InProcess) -> None:
    (shared.folder / "text").write_text("hello")
    missing, closed = shared("exec", "-q", "pg_dmup"), shared("exec", "-q", "./text")
    assert missing == (127, "", "payproc: pg_dmup: not found, expected a program in PATH\n")
    assert closed == (126, "", "payproc: ./text: cannot be run: Permission denied\n")
    script = shared.folder / "script"
    script.write_text("#!/nowhere/sh\n")
    script.chmod(0o700)
    problem = "cannot be run: the interpreter in its first line was not found"
    assert shared("exec", "-q", "./script") == (126, "", f"payproc: ./script: {problem}\n")


# ---- The database --------------------------------------------------------------------------------


def test_program_reads_and_does_not_write(run_in_process: InProcess, url: URL, sql: Sql) -> None:
    run = run_in_process
    assert run("exec", "-q", "psql", "-Atc", NAMES).stdout == f"{url.database}|on\n"
    refused = run("exec", "-q", "psql", "-c", INSERT)
    assert (refused.code, refused.stderr) == (1, "ERROR:  cannot execute INSERT in a read-only transaction\n")
    assert run("exec", "-q", "--write", "psql", "-Atc", NAMES).stdout == f"{url.database}|off\n"
    assert run("exec", "--write", "psql", "-c", INSERT).code == 0
    assert sql.value(COUNT) == 1


def test_check_of_the_guard_may_time_out(shared: InProcess) -> None:
    """A deferrable transaction waits for every serializable one."""
    options = "-c default_transaction_isolation=serializable -c default_transaction_deferrable=on"
    environment = {"PGOPTIONS": f"{options} -c statement_timeout=100"}
    with closing(Sql(find_url(shared))) as sql:
        sql.rows("SET default_transaction_isolation = serializable")
        sql.rows("BEGIN")
        sql.rows("UPDATE payproc.payments SET version = version WHERE false")
        refused = shared("exec", "-q", "true", env=environment)
    assert (refused.code, "refused: canceling statement due to" in refused.stderr) == (1, True), refused


def test_psql_is_the_default(shared: InProcess) -> None:
    assert shared("exec", "-q", stdin=b"\\pset tuples_only\nSELECT 6 * 7").stdout.split()[-1] == "42"


def test_callers_variables_fill_gaps_of_the_url(shared: InProcess) -> None:
    """A service would take precedence over variables, and so may not be passed on as one."""
    url = find_url(shared)
    run, socket = shared, url.query["host"]
    (run.folder / "services").write_text(f"[books]\nhost={socket}\nuser={url.username}\ndbname=nowhere\n")
    environment = {"PGSERVICE": "books", "PGSERVICEFILE": str(run.folder / "services"), "PGHOST": "elsewhere"}
    query = f"{NAMES}, current_setting('DateStyle')"
    for named in (f"postgresql:///{url.database}", f"postgresql:///{url.database}?service=books"):
        finished = run(
            "exec", "-q", "--database-url", named, "psql", "-Atc", query, env={**environment, "PGDATESTYLE": "German"}
        )
        assert finished.stdout == f"{url.database}|on|German, DMY\n", finished


def test_encoding_is_that_of_the_url(shared: InProcess) -> None:
    """The connection of payproc itself is always in UTF-8."""
    named = find_url(shared).update_query_dict({"client_encoding": "latin1"}).render_as_string(hide_password=False)
    finished = shared("exec", "-q", "--database-url", named, "psql", "-Atc", "SHOW client_encoding")
    assert finished == (0, "LATIN1\n", "")


def test_payproc_inside_takes_the_same_database(shared: InProcess) -> None:
    """A URL in the environment, or in .env, may name another one."""
    url = find_url(shared)
    script = 'psql "$DATABASE_URL" -Atc "SELECT current_database()"'
    named = url.render_as_string(hide_password=False)
    elsewhere = {"DATABASE_URL": "postgresql://nowhere.invalid/"}
    finished = shared("exec", "-q", "--database-url", named, "sh", "-c", script, env=elsewhere)
    assert finished == (0, f"{url.database}\n", "")


def test_url_of_several_hosts_reaches_the_same(shared: InProcess) -> None:
    """The guard would hide the primary from a program that asks for a session that writes."""
    url = find_url(shared)
    named = f"postgresql://{url.username}@127.0.0.1:1/{url.database}?host=/nowhere,{url.query['host']}&port=1,5432"
    for option in ("&target_session_attrs=read-write", "&options=-c%20work_mem%3D123kB"):
        finished = shared("exec", "-q", "--database-url", f"{named}{option}", "psql", "-Atc", NAMES)
        assert finished.stdout == f"{url.database}|on\n", finished


def test_password_is_only_in_the_environment(shared: InProcess) -> None:
    url = find_url(shared)
    named = f"postgresql://{url.username}:s3cret@/{url.database}?host={url.query['host']}"
    finished = shared(
        "exec", "--database-url", named, "sh", "-c", 'echo "$PGPASSWORD"; tr "\\0" " " < /proc/$$/cmdline'
    )
    assert finished.stdout.startswith("s3cret\nsh -c ")
    assert finished.output.count("s3cret") == 1
    refused = shared("exec", "-q", "--database-url", f"{named}&sslpassword=s3cret", "true")
    assert (refused.code, refused.stderr) == (
        2,
        "payproc: cannot pass on the parameter sslpassword, which has no environment variable; use a URL without it\n",
    )


def test_wheels_programs_come_last_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's programs have no TLS, but a named folder's may."""
    plain, secure = (Target({}, "", 15, uses_tls=uses_tls) for uses_tls in (False, True))
    wheel = find_wheel() / "pginstall18" / "bin"
    assert _build_path("/bin", plain) == f"{wheel}:/bin"
    assert _build_path("/bin", secure) == f"/bin:{wheel}"
    assert _build_path("/bin", plain._replace(version=16)) == f"{find_wheel() / 'pginstall' / 'bin'}:/bin"
    monkeypatch.setenv(BINARIES_VARIABLE, str(wheel))
    assert _build_path("/bin", secure) == f"{wheel}:/bin"
    monkeypatch.delenv(BINARIES_VARIABLE)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert _build_path("/bin", plain) == "/bin"


# ---- Signals -------------------------------------------------------------------------------------

TRAP = "trap 'echo got it; exit 7' TERM HUP INT; echo ready; while :; do sleep 0.01; done"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGHUP, signal.SIGINT))]
)
def test_signal_is_passed_on(payproc: Payproc, number: signal.Signals) -> None:
    """As from systemd or a container, which signal payproc alone."""
    with payproc.start("exec", "-q", "sh", "-c", TRAP, start_new_session=True) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=30) == (b"got it\n", b"")
    assert process.returncode == 7


@pytest.mark.slow
def test_ignored_signal_stays_ignored(payproc: Payproc) -> None:
    """As under nohup."""
    script = """trap "" HUP; exec "$0" exec -q sh -c 'kill -HUP $$; echo alive'"""
    assert payproc("-c", script, COMMAND, command="bash").stdout == "alive\n"


@pytest.mark.slow
def test_ctrl_c_is_for_the_program(payproc: Payproc) -> None:
    """psql cancels a query by it and goes on, as often as a person wants."""
    with open_terminal(cooked=True) as terminal:
        process = subprocess.Popen(
            [COMMAND, "exec", "-q", "psql", "-X", "-P", "pager=off"],
            cwd=payproc.folder,
            env={**payproc.environment, "TERM": "dumb"},
            stdin=terminal.stream,
            stdout=terminal.stream,
            stderr=terminal.stream,
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509
        )
        terminal.read_until(b"=# ")
        for _ in range(3):
            terminal.type(b"SELECT pg_sleep(60);\n")
            wait_for(lambda: _is_sleeping(payproc))
            terminal.type(b"\x03")
            assert b"canceling statement due to user request" in terminal.read_until(b"=# ")
        terminal.type(b"\\q\n")
        assert process.wait(30) == 0


def _is_sleeping(payproc: Payproc) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    return payproc("exec", "-q", "psql", "-Atc", query).stdout == "1\n"


@pytest.mark.slow
def test_open_descriptors_reach_the_program(payproc: Payproc) -> None:
    """As in psql -f <(command), which is a file of the shell."""
    script = 'exec "$0" exec -q psql -X -At -f <(echo "SELECT 40 + 2")'
    assert payproc("-c", script, COMMAND, command="bash").stdout == "42\n"
