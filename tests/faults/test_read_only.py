"""Read-only servers and roles: every question is answered, and every write is refused."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from payproc.embedded.initdb import SUPERUSER
from tests.support.command import Payproc
from tests.support.postgres import SqlOn, contents, wait_for
from tests.support.reports import error_of
from tests.support.servers import IS_ROOT, OwnServer, OwnServers, new_folder
from tests.support.workload import expected_day, messy_day

pytestmark = pytest.mark.slow

READ_ONLY = "in a read-only transaction; connect to the primary, with a role that may write"


@contextmanager
def standby_of(primary: OwnServer) -> Iterator[OwnServer]:
    """Run a hot standby that follows a running server."""
    home = new_folder()
    try:
        if IS_ROOT:
            owner = primary.home.stat()
            os.chown(home, owner.st_uid, owner.st_gid)
        standby = OwnServer(home, primary.programs)
        source = ("-h", primary.home, "-U", SUPERUSER)
        primary.run("pg_basebackup", *source, "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        standby.configure(f"unix_socket_directories = '{home}'")
        standby.start()
        yield standby
        standby.stop()
    finally:
        if (home / "data" / "postmaster.pid").exists():
            standby.stop("immediate")
        shutil.rmtree(home)


def test_standby_answers_readers_and_refuses_writes(own_server: OwnServers, tmp_path: Path, sql_on: SqlOn) -> None:
    """A role with SELECT alone gets all answers from a standby.

    Its writes are refused there and on the primary.
    """
    primary = own_server("wal_level = replica", "max_wal_senders = 4")
    on_primary, sql = Payproc(tmp_path, primary.url), sql_on(primary.url)
    (tmp_path / "day.jsonl").write_bytes(expected_day(messy_day(18, 600)).text)
    sql.rows("CREATE ROLE reader LOGIN")
    sql.rows("GRANT USAGE ON SCHEMA payproc TO reader")
    sql.rows("GRANT SELECT ON ALL TABLES IN SCHEMA payproc TO reader")
    with standby_of(primary) as standby:
        assert on_primary("ingest", "day.jsonl", "--quiet").code == 3  # the standby gets it by replication
        # Two commands show the same age, which would grow in seconds otherwise.
        sql.rows("UPDATE payproc.events SET recorded_at = recorded_at - interval '36 hours'")
        written, replica = sql.value("SELECT pg_current_wal_lsn()"), sql_on(standby.url)
        wait_for(lambda: replica.value("SELECT pg_last_wal_replay_lsn() >= %s", written))
        reader = Payproc(tmp_path, standby.url.set(username="reader"))
        pending = json.loads(on_primary("review", "--format", "json", "--limit", "1").stdout)

        for command in (["show", pending["payment_id"]], ["review"], ["verify"], ["runs"]):
            for options in ([], ["--format", "json"]) if command != ["verify"] else ([],):
                there, here = on_primary(*command, *options), reader(*command, *options)
                assert (here.code, here.stdout) == (0, there.stdout), command
        dry_run = ("ingest", "--dry-run", "day.jsonl", "--format", "json")
        there_json, here_json = json.loads(on_primary(*dry_run).stdout), json.loads(reader(*dry_run).stdout)
        unlike = {"elapsed_seconds": 0, "database": ""}
        assert {**here_json, **unlike} == {**there_json, **unlike}
        assert Payproc(tmp_path, standby.url)("init").stdout == "the schema payproc is up to date\n"

        resolve = ("resolve", pending["event_id"], "--dismiss", "--note", "seen", "--yes")
        state = "failed" if pending["state"] == "refunded" else "refunded"
        correct = ("correct", pending["payment_id"], "--to", state, "--note", "seen", "--yes")
        before = contents(replica)
        refusals = ((Payproc(tmp_path, standby.url), READ_ONLY), (reader, READ_ONLY))
        reader_on_primary = Payproc(tmp_path, primary.url.set(username="reader"))
        for payproc, message in (*refusals, (reader_on_primary, "refused: permission denied for ")):
            for command in (["ingest", "day.jsonl"], [*resolve], [*correct]):
                assert message in error_of(*payproc(*command)[::2]), command
        assert contents(replica) == contents(sql) == before
        for decision in (resolve, correct):
            assert on_primary(*decision).code == 0
