"""The server's log: it stays short, and its end is kept."""

from pathlib import Path
from typing import Any

import psycopg2
import pytest

from payproc.embedded.log import describe_end
from payproc.embedded.server import run_server
from tests.support.homes import Holder, authorize, succeed

LOG_LIMIT_BYTES = 20_000_000
LINE = "2026-11-25 LOG:  one of many\n"


def measure_log(home: Path) -> int:
    return sum((home / name).stat().st_size for name in ("log", "log.old") if (home / name).exists())


def append_to_log(home: Path, text: str) -> None:
    with (home / "log").open("a") as log:
        log.write(text)


def test_long_log_keeps_its_end(made_home: Path) -> None:
    append_to_log(made_home, LINE * 1_000_000 + "2026-11-25 LOG:  the last\n")
    succeed(made_home, "init")
    assert measure_log(made_home) < LOG_LIMIT_BYTES
    assert (made_home / "log.old").read_text().endswith("one of many\n2026-11-25 LOG:  the last\n")
    assert "starting PostgreSQL" in (made_home / "log").read_text()


@pytest.mark.slow
def test_log_of_running_server_is_shortened(made_home: Path) -> None:
    holder = Holder(made_home).wait_until_connected()
    append_to_log(made_home, LINE * 1_000_000)
    succeed(made_home, "init")
    assert measure_log(made_home) < LOG_LIMIT_BYTES
    assert holder.end() == 0
    assert "database system is shut down" in (made_home / "log").read_text(errors="replace")[-1000:]


@pytest.mark.parametrize("options", ["payproc's own", "-c application_name=psql"])
def test_failed_statement_logs_little(made_home: Path, options: str) -> None:
    with run_server(made_home) as server:
        before = measure_log(made_home)
        is_own = options == "payproc's own"
        given: dict[str, Any] = server.connect_args | ({} if is_own else {"options": options})
        connection = psycopg2.connect(**given)
        with pytest.raises(psycopg2.errors.DivisionByZero), connection.cursor() as cursor:
            cursor.execute(f"SELECT '{'x' * 5_000_000}', 1 / 0")
        connection.close()
        assert measure_log(made_home) - before < (1 if is_own else 1_000)


def test_start_and_stop_log_little(made_home: Path) -> None:
    before = measure_log(made_home)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    assert measure_log(made_home) - before < 2_000  # 840, and a line for each look at a server that is still starting


def test_refused_client_is_not_the_reason_of_an_end(tmp_path: Path) -> None:
    """PostgreSQL writes two spaces after the colon."""
    log = tmp_path / "log"
    panic = '2026-11-26 UTC [9] PANIC:  could not write to file "pg_wal/xlogtemp.9": No space left on device'
    log.write_text(f"{panic}\n2026-11-26 UTC [10] FATAL:  the database system is in recovery mode\n")
    assert describe_end(log, None) == f"its server has ended: {panic} (see {log})"
