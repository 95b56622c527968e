"""Durability: a reported event is on disk, in spite of settings, triggers and changed tables."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.bulk import Fate, Order, Resolver
from payproc.corrections import Correction, correct
from payproc.db import schema
from payproc.db.connection import Database
from payproc.db.location import parse_url
from payproc.errors import CannotFinish
from payproc.handlers import Recorder
from payproc.logic import Resolution, State
from payproc.review import ReviewDecision, resolve_review
from payproc.runs import open_run, save_counts
from tests.support.events import input_events
from tests.support.old_schemas import REPLACED
from tests.support.postgres import Sql, SqlOn, as_database, contents, wait_for
from tests.support.servers import OwnServer, OwnServers

OBSTACLES = {
    "nothing": [],
    "row gone": ["DELETE FROM payproc.runs"],
    "trigger": [
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER swallow BEFORE UPDATE ON payproc.runs FOR EACH ROW EXECUTE FUNCTION swallow()",
    ],
    "unlogged": ["ALTER TABLE payproc.runs SET UNLOGGED"],
    "database off": ["ALTER DATABASE \"database off\" SET synchronous_commit = 'off'"],
    "role off": ["ALTER ROLE payproc IN DATABASE \"role off\" SET synchronous_commit = 'off'"],
}
"""Statements that come between the closing commit and the disk, by the name of their database."""


def create_database(server: OwnServer, name: str, sql_on: SqlOn) -> URL:
    """Create an empty database."""
    sql_on(server.url).rows(f'CREATE DATABASE "{name}" TEMPLATE template0')
    return server.url.set(database=name)


@pytest.mark.parametrize(
    "names",
    [
        ("nothing", "role off"),
        pytest.param(("row gone", "trigger", "unlogged", "database off"), marks=pytest.mark.slow),
    ],
)
def test_power_cut_loses_nothing_reported(own_server: OwnServers, sql_on: SqlOn, names: tuple[str, ...]) -> None:
    """Only commits flush, because the WAL writer sleeps. The power goes right after the report."""
    server = own_server("wal_writer_delay = '10s'", "autovacuum = off")
    for name in names:
        url = create_database(server, name, sql_on)
        database = as_database(url, name)
        schema.bring_up(database)
        run_id = open_run(database, ["test"])
        with closing(Sql(url)) as sql:
            for statement in OBSTACLES[name]:
                sql.rows(statement)
        with closing(Recorder(database, run_id)) as recorder:
            for number in range(40):
                recorder.handle(input_events((f"e{number}", "p1", "refund"), first_line=number + 1))
        server.restart("immediate")
        decision = ReviewDecision(Resolution.DISMISS, "n", "b")
        assert resolve_review(database, "e39", decision, lambda *_: True) is not None, name
        with closing(Resolver(database)) as resolver:
            assert resolver.resolve(Order("e38", decision))[0].result is Fate.RESOLVED, name
        server.restart("immediate")
        with closing(Sql(url)) as sql:
            assert sql.value("SELECT count(*) FROM payproc.events") == 40, name
            assert sql.value("SELECT count(*) FROM payproc.resolutions") == 2, name


def test_stronger_synchronous_commit_is_kept(url: URL, sql: Sql) -> None:
    """A trigger that is deferred to the commit reads the setting back."""
    sql.rows("CREATE TABLE seen (setting text)")
    sql.rows(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    sql.rows(
        "CREATE CONSTRAINT TRIGGER see AFTER INSERT ON payproc.runs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION see()"
    )
    for given in ("off", "local", "remote_write", "on", "remote_apply"):
        parameters = parse_url(url.set(drivername="postgresql").render_as_string(False), "URL")
        options = f"-c synchronous_commit={given}"
        open_run(Database({**parameters, "options": options}, "a database"), ["test"])
    kept = ["local", "local", "remote_write", "on", "remote_apply"]
    assert [setting for (setting,) in sql.rows("SELECT setting FROM seen")] == kept


CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def wait_until_commits_wait(sql: Sql) -> None:
    """Commit until a commit waits for a standby.

    The checkpointer makes that setting effective for all sessions, after some of them show it.
    """
    with closing(Sql(sql.url)) as other, ThreadPoolExecutor(1) as pool:
        write = "UPDATE payproc.runs SET lines = lines"
        commit = pool.submit(other.rows, write)

        def is_canceled() -> bool:
            nonlocal commit
            if commit.done():
                commit = pool.submit(other.rows, write)
            return bool(sql.rows(CANCEL))

        wait_for(is_canceled)


@pytest.mark.parametrize(
    "reports", ["ingest", *(pytest.param(each, marks=pytest.mark.slow) for each in ("resolve", "batch", "correct"))]
)
def test_canceled_wait_for_a_standby_is_an_error(own_server: OwnServers, sql_on: SqlOn, reports: str) -> None:
    """The server only warns about it, here among many other messages."""
    server = own_server("max_wal_senders = 2", "wal_level = replica")
    url, sql = server.url, sql_on(server.url)
    database = as_database(url, "the server")
    sql.rows("ALTER ROLE payproc SET client_min_messages = 'debug5'")
    run_id = open_run(database, ["test"])
    with closing(Recorder(database, run_id)) as recorder:
        recorder.handle(input_events(("e1", "p1", "refund")))
    sql.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    sql.rows("SELECT pg_reload_conf()")
    wait_until_commits_wait(sql)

    decision = ReviewDecision(Resolution.DISMISS, "n", "b")

    def report() -> Any:
        if reports == "resolve":
            return resolve_review(database, "e1", decision, lambda *_: True)
        if reports == "batch":
            with closing(Resolver(database)) as resolver:
                return resolver.resolve(Order("e1", decision))
        if reports == "correct":
            return correct(database, "p1", Correction(State.FAILED, "n", "b"), lambda _: True)
        with closing(Recorder(database, run_id)) as recorder:
            return recorder.handle(input_events(("e2", "p2", "authorize"), first_line=2))

    with ThreadPoolExecutor(1) as pool:
        reported = pool.submit(report)
        wait_for(lambda: sql.rows(CANCEL))
        with pytest.raises(CannotFinish, match=r"committed, but perhaps not on its standby: .*cancel"):
            reported.result()


def test_run_without_its_row_cannot_finish(database: Database, sql: Sql) -> None:
    """The final counts would be lost without a word."""
    run_id = open_run(database, ["test"])
    sql.rows("DELETE FROM payproc.runs")
    with pytest.raises(CannotFinish, match=rf"run {run_id}: its row in payproc.runs is gone"):
        save_counts(database, run_id, 1, 0, [1, 0, 0, 0], finished=True)


def test_unlogged_table_is_refused(database: Database, sql: Sql) -> None:
    """A crash empties unlogged tables."""
    sql.rows("ALTER TABLE payproc.events SET UNLOGGED")
    with pytest.raises(CannotFinish, match=r"run ALTER TABLE payproc.events SET LOGGED"):
        schema.prepare_schema(database, lambda _: None, create=False)


def test_replay_after_reused_run_number_is_duplicates(database: Database, sql: Sql) -> None:
    """Another run recorded the events under this run's number, with the same sources and lines."""
    day = input_events(("e1", "p1", "authorize"), ("e2", "p1", "capture"))
    for expected in (["transition", "transition"], ["duplicate_event", "duplicate_event"]):
        with closing(Recorder(database, open_run(database, ["test"]))) as recorder:
            assert [result.decision.reason.value for result in recorder.handle(day)] == expected  # type: ignore[union-attr]
        sql.rows("TRUNCATE payproc.runs RESTART IDENTITY")


SWALLOWED = [
    "CREATE TRIGGER swallow BEFORE INSERT ON payproc.{} FOR EACH ROW EXECUTE FUNCTION swallow()",
    "CREATE RULE swallow AS ON INSERT TO payproc.{} DO INSTEAD NOTHING",
]


@pytest.mark.parametrize("statement", SWALLOWED, ids=["trigger", "rule"])
@pytest.mark.parametrize("table", ["payments", "events"])
def test_swallowed_row_is_not_reported(database: Database, sql: Sql, table: str, statement: str) -> None:
    """A trigger or a rule may drop an INSERT without an error."""
    sql.rows("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    sql.rows(statement.format(table))
    run_id = open_run(database, ["test"])
    with closing(Recorder(database, run_id)) as recorder, pytest.raises(CannotFinish):
        recorder.handle(input_events(("e1", "p1", "authorize"), ("e2", "p1", "capture")))
    assert not any(contents(sql).values())


def test_procedure_without_a_body_is_refused(database: Database, sql: Sql) -> None:
    """Its CALL succeeds and records nothing."""
    definition = sql.value("SELECT pg_get_functiondef('payproc.record_decisions'::regproc)")
    head, _, tail = definition.partition("$procedure$")
    sql.rows(f"{head}$procedure$ BEGIN END $procedure${tail.rpartition('$procedure$')[2]}")
    recorder = Recorder(database, open_run(database, ["test"]))
    with closing(recorder), pytest.raises(CannotFinish, match="has lost its body; run payproc init"):
        recorder.handle(input_events(("e1", "p1", "authorize")))
    assert schema.bring_up(database) == [REPLACED]
    with closing(Recorder(database, open_run(database, ["test"]))) as recorder:
        recorder.handle(input_events(("e1", "p1", "authorize")))


def test_connection_ended_after_commit_is_no_warning(database: Database, sql: Sql) -> None:
    """The last message is FATAL, and it came after the answer to the commit."""
    with closing(database.connect()) as connection:
        sql.rows("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        wait_for(lambda: not sql.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", connection.info.backend_pid))
        database.refuse_warnings(connection, ["FATAL:  terminating connection due to administrator command"])


def test_second_attempt_ignores_an_older_run(database: Database, sql: Sql) -> None:
    """An attempt after a lost connection takes only its own run's events for its own."""
    day = input_events(("e1", "p1", "authorize"))
    with closing(Recorder(database, open_run(database, ["test"]))) as recorder:
        recorder.handle(day)
    sql.rows("TRUNCATE payproc.runs RESTART IDENTITY")
    # Older than the clocks of a cluster may differ.
    sql.rows("UPDATE payproc.events SET recorded_at = '2020-01-01'")
    with closing(Recorder(database, open_run(database, ["test"]))) as recorder:
        (result,) = recorder._settle(day, is_first_attempt=False)
    assert result.decision.reason.value == "duplicate_event"  # type: ignore[union-attr]
