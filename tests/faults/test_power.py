"""Power cuts at a hundred random moments: no reported event is lost, and a rerun completes the job.

The server is stopped in PostgreSQL's immediate mode, so all that is not on disk is gone. It never
flushes on its own asynchronous commits, so only payproc's commits reach the disk.

The seed is in the test's name: `pytest -m slow "FILE::TEST[SEED]"` repeats it.
"""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.db import connection as db
from payproc.db import schema
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from tests.support.command import Payproc
from tests.support.crashes import (
    day_of,
    empty_tables,
    ingesting,
    rerun,
    wait_for_dead_clients,
    wait_for_random_moment,
)
from tests.support.homes import read_pid_file, read_server_process
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.reports import DECISIONS, assert_decisions_recorded, read_decisions
from tests.support.tally import count

POWER_CUTS = 100

pytestmark = pytest.mark.slow


class Server:
    """A server whose plug can be pulled. It flushes no asynchronous commit for 10 seconds."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._use = ExitStack()
        with run_server(home) as running:
            schema.bring_up(db.Database(running.connect_args, "the campaign's server"))
        with (home / "data" / "postgresql.conf").open("a") as settings:
            settings.write("wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\n")

    def start(self) -> Sql:
        """Start it, with recovery after a crash."""
        running = self._use.enter_context(run_server(self.home))
        query = {"host": str(running.socket_folder)}
        url = URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query=query)
        return self._use.enter_context(closing(Sql(url)))

    def pull_the_plug(self) -> None:
        """Stop it in immediate mode and wait for its end.

        A command that has only begun may start the next one at once.
        """
        server = read_server_process(self.home)
        os.kill(server, signal.SIGQUIT)
        wait_for(lambda: read_pid_file(self.home)[:1] != [str(server)])
        self._use.close()

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._use.close()


@pytest.fixture(scope="module")
def power_server() -> Iterator[Server]:
    """The one server of this file."""
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-"))
    try:
        yield Server(home)
    finally:
        shutil.rmtree(home)


# The process that started the server may end before the server does, by design.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("seed", range(POWER_CUTS))
def test_power_cut_at_any_moment(power_server: Server, tmp_path: Path, seed: int) -> None:
    """In half of the cases the process dies with the server.

    In the others the server comes back under it.
    """
    payproc, day, chance = Payproc(tmp_path, None), day_of(seed), random.Random(1000 + seed)
    payproc.environment["PAYPROC_HOME"] = str(power_server.home)
    sql = power_server.start()
    try:
        while True:
            empty_tables(sql)
            with ingesting(payproc, day, chance) as process:
                wait_for_random_moment(process, payproc, day, chance, sql)
                power_server.pull_the_plug()
                was_running = process.poll() is None
                dies_with_it = chance.random() < 0.5
                if dies_with_it:
                    process.kill()
                sql = power_server.start()
                code = process.wait(timeout=60)
            if was_running:
                break
        stderr = (payproc.folder / "stderr").read_text()
        # The process may notice the dead server, or end its run, just before it is killed.
        assert code in (1, 3) or (dies_with_it and code == -signal.SIGKILL), stderr
        assert "Traceback" not in stderr
        decisions = read_decisions(payproc.folder / DECISIONS)
        if code == 3:
            assert decisions == day.decisions
            if not dies_with_it:
                count("runs that went on after their server had come back")
        wait_for_dead_clients(sql)
        assert_books_right(sql)
        reported = assert_decisions_recorded(decisions, sql)
        count("events reported before a power cut or after it, all on record", reported)
        rerun(payproc, day, sql)
        count("power cuts at a random moment")
    finally:
        power_server.stop()
