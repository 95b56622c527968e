"""A real Citus cluster: the same books as on one server, and a line for each fault of a cluster.

PAYPROC_TEST_CITUS names the machines; without it these tests are skipped. The tables of the variant
are tested on plain PostgreSQL in test_citus_variant.py.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2.errors
import pytest
from sqlalchemy import URL

from payproc.db.citus import DISTRIBUTED_BY
from payproc.db.mark import VERSION
from payproc.db.schema import bring_up, require_schema
from payproc.db.views import VIEWS
from payproc.handlers import Recorder
from payproc.machines import route
from tests.support.citus import (
    MACHINES,
    Cluster,
    cluster_of,
    find_blocked_backends,
    load_distributed_version,
    new_cluster,
    new_role,
)
from tests.support.command import Finished, error_line
from tests.support.documents import blocks
from tests.support.events import event_line, input_events, reasons, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import (
    NewDatabase,
    Server,
    Sql,
    SqlOn,
    as_database,
    assert_books_right,
    contents,
    wait_for,
)

SAMPLES = sorted((Path(__file__).parents[2] / "sample_events").glob("*.jsonl"))

pytestmark = pytest.mark.skipif(not MACHINES, reason="needs a Citus cluster, named by PAYPROC_TEST_CITUS")


@pytest.fixture
def cluster(bare_url: URL) -> Cluster:
    """Create a database on all machines, without payproc's schema."""
    return cluster_of(bare_url)


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> InProcess:
    """Return the command on the coordinator."""
    return InProcess(tmp_path, cluster.coordinator)


@pytest.fixture
def coordinator(cluster: Cluster, sql_on: SqlOn) -> Sql:
    return sql_on(cluster.coordinator)


COMMANDS = [
    ("review", "--format", "jsonl"),
    ("review", "--legal-now", "--format", "jsonl"),
    ("resolve", "evt_4004", "--dismiss", "--note", "n", "--by", "bob", "--yes"),
    ("resolve", "--all", "--legal-now", "--apply", "--note", "n", "--by", "bob", "--yes"),
    ("correct", "pay_desk", "--to", "captured", "--note", "n", "--by", "bob", "--yes"),
    ("payments", "--format", "jsonl"),
    ("history", "--format", "jsonl"),
    ("history", "--kind", "conflict", "--format", "jsonl"),
    ("status", "--format", "jsonl"),
    ("runs", "--format", "jsonl"),
    ("show", "pay_coat", "--format", "jsonl"),
    ("verify",),
    ("export",),
]


def answers(run: InProcess) -> list[Finished]:
    """Record the samples twice, let people decide, and ask every question."""
    ingest = ("ingest", *map(str, SAMPLES), "--workers", "1", "--format", "jsonl")
    return [without_times(run(*command, "--quiet")) for command in [ingest, ingest, *COMMANDS]]


def without_times(finished: Finished) -> Finished:
    """Return the result with sorted lines, without times, durations and the database's name.

    The machines record the payments of a batch at the same time, so their order in time may differ.
    """
    stdout = re.sub(r'"20\d\d-\d\d-\d\dT[^"]*"|"elapsed_seconds":[\d.]+|"postgresql://[^"]*"', "…", finished.stdout)
    stdout = re.sub(r'"oldest_waiting":{[^}]*}', "…", stdout)
    return finished._replace(stdout="\n".join(sorted(stdout.splitlines())))


def test_tests_of_one_server_run_on_all_machines(sql: Sql) -> None:
    """The other integration tests get their databases from the same fixtures."""
    assert sql.value("SELECT count(*) FROM pg_dist_partition") == len(DISTRIBUTED_BY)
    assert sql.value("SELECT count(DISTINCT groupid) FROM pg_dist_placement") == len(MACHINES) - 1


def test_every_command_answers_as_on_one_server(
    run: InProcess, coordinator: Sql, new_database: NewDatabase, sql_on: SqlOn, tmp_path: Path
) -> None:
    assert run("init", "--citus", "--quiet").code == 0
    plain = new_database("template0", "UTF8")
    assert answers(run) == answers(InProcess(tmp_path, plain))
    one_server = sql_on(plain)
    assert contents(coordinator) == contents(one_server)
    assert_books_right(coordinator)
    for view in VIEWS:
        count = f"SELECT count(*) FROM payproc.{view}"
        assert coordinator.value(count) == one_server.value(count) > 0


def test_reader_gets_answers_from_all_machines(run: InProcess, coordinator: Sql, sql_on: SqlOn) -> None:
    """Citus reads shards with the rights of the caller, not with those of a view's owner."""
    assert run("init", "--citus", "--quiet").code == 0
    with new_role(coordinator) as role:
        assert run("init", "--reader", role).code == 0
        assert run("ingest", *SAMPLES, "--quiet").code == 3
        reader = sql_on(coordinator.url.set(username=role))
        for query in [*blocks("payproc/db/README.md", "sql"), *(f"SELECT * FROM payproc.{view}" for view in VIEWS)]:
            assert len(reader.rows(query)) == len(coordinator.rows(query))


@pytest.mark.parametrize("version", range(1, VERSION))
def test_earlier_layout_is_refused(run: InProcess, coordinator: Sql, version: int) -> None:
    """Each command that opens a database names the way to the new layout."""
    load_distributed_version(coordinator, version)
    before = coordinator.value("SELECT count(*) FROM payproc.events")
    resolve = ("resolve", "--from", "-", "--note", "n", "--dismiss", "--yes")
    for command in [*COMMANDS, ("init",), ("init", "--citus"), ("init", "--sql"), ("ingest", SAMPLES[0]), resolve]:
        line = error_line(run(*command, "--quiet"), 1)
        assert "spread by event_id, expected by payment_id; export it with that payproc into a new database" in line, (
            command
        )
    assert coordinator.value("SELECT count(*) FROM payproc.events") == before > 0


def test_tables_of_a_payment_are_together(run: InProcess, coordinator: Sql) -> None:
    assert run("init", "--citus", "--quiet").code == 0
    query = "SELECT relname FROM pg_dist_partition, pg_class WHERE oid = logicalrelid GROUP BY colocationid"
    found = coordinator.rows(query.replace("relname", "array_agg(relname::text ORDER BY relname)"))
    assert sorted(tables for (tables,) in found) == [
        ["corrections", "events", "payments", "resolutions"],
        ["event_conflicts", "event_ids", "redeliveries"],
    ]


def test_wrong_claims_are_found(run: InProcess, coordinator: Sql) -> None:
    assert run("init", "--citus", "--quiet").code == 0
    run("ingest", *SAMPLES, "--quiet")
    assert run("verify", "--quiet").code == 0
    coordinator.rows("DELETE FROM payproc.event_ids WHERE event_id = 'evt_1001'")
    coordinator.rows("UPDATE payproc.event_ids SET type = 'fail' WHERE event_id = 'evt_1003'")
    coordinator.rows("INSERT INTO payproc.event_ids VALUES ('evt_dead', 'pay_dead', 'capture')")
    verified = run("verify", "--quiet")
    assert verified.code == 3
    assert sorted(line.partition(", expected")[0] for line in verified.stdout.splitlines()[:-1]) == [
        "payment pay_coffee: entry 1: wrong_claim: found event evt_1001 not claimed",
        "payment pay_coffee: entry 2: wrong_claim: found event evt_1003 claimed for fail of payment pay_coffee",
    ]
    for command in (("show", "evt_dead"), ("resolve", "evt_dead", "--dismiss", "--note", "n", "--yes")):
        line = error_line(run(*command, "--quiet"), 1)
        assert "not found" in line
        assert "pay_dead" not in line


@pytest.mark.parametrize("has_schema", [True, False], ids=["schema", "no schema"])
def test_worker_names_its_coordinator(run: InProcess, cluster: Cluster, tmp_path: Path, has_schema: bool) -> None:
    if has_schema:
        assert run("init", "--citus", "--quiet").code == 0
    on_worker = InProcess(tmp_path, cluster.workers[0])
    host = f"{cluster.coordinator.host}:{cluster.coordinator.port or 5432}"
    for command in (("status",), ("init",), ("init", "--citus"), ("ingest", SAMPLES[0])):
        assert error_line(on_worker(*command), 1).endswith(
            f" is on a worker of a Citus cluster, expected its coordinator; name the coordinator, {host}"
        )


def test_coordinator_asks_for_a_choice(run: InProcess, coordinator: Sql) -> None:
    """Only the choice for one machine keeps the tables there."""
    for command in (("init",), ("ingest", SAMPLES[0])):
        assert "run `payproc init --citus` to spread it" in error_line(run(*command), 1)
    assert run("init", "--no-citus", "--quiet").code == 0
    assert run("ingest", SAMPLES[0], "--quiet").code == 0
    assert coordinator.rows("SELECT 1 FROM pg_dist_partition") == []


def test_missing_extension_names_the_machine(run: InProcess, cluster: Cluster, sql_on: SqlOn) -> None:
    worker = cluster.workers[-1]
    sql_on(worker).rows("DROP EXTENSION citus CASCADE")
    assert error_line(run("init", "--citus"), 1).endswith(
        f" (machine {worker.host}:{worker.port or 5432}); run CREATE EXTENSION citus in this database of that machine"
    )


@pytest.mark.parametrize("machines", [MACHINES, MACHINES[:1]], ids=["worker", "coordinator"])
def test_other_encodings_are_refused(machines: list[Server], tmp_path: Path) -> None:
    """An event_id could read back as another, and be recorded under two payments."""
    with new_cluster(machines, last_encoding="EUC_JP") as cluster:
        line = error_line(InProcess(tmp_path, cluster.coordinator)("init", "--citus"), 1)
    machine = machines[-1].url
    where = f" on {machine.host}:{machine.port or 5432}" if len(machines) > 1 else ""
    assert f"has the encoding EUC_JP{where}, expected UTF8 on each machine of Citus; create it with" in line


def test_unknown_role_names_the_machine(run: InProcess, coordinator: Sql, tmp_path: Path) -> None:
    """Citus passes on CREATE ROLE only from a database with its extension."""
    assert run("init", "--citus", "--quiet").code == 0
    with new_role(coordinator, on_workers=False) as role:
        line = error_line(run("init", "--reader", role), 1)
        assert re.search(rf'refused: role "{role}" does not exist \(machine .+\); create it on each machine', line)
        line = error_line(InProcess(tmp_path, coordinator.url.set(username=role))("review"), 1)
        assert f'role "{role}" does not exist; run it again when that machine runs, and has this' in line


@pytest.mark.skipif(len(MACHINES) < 3, reason="needs two workers")
def test_stale_route_waits_for_the_disk_elsewhere(
    cluster: Cluster, coordinator: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last commit flushes the machine that ran the CALL, and the rows may be on another."""
    database = as_database(cluster.coordinator, "the cluster")
    bring_up(database, for_citus=True)
    payment_ids = [f"p{number}" for number in range(8)]
    with closing(database.connect()) as connection:
        machines = {place[0] for place in route(connection, "payments", payment_ids).values()}
    assert len(machines) > 1
    port = coordinator.value(
        "SELECT nodeport FROM pg_dist_node JOIN pg_dist_placement USING (groupid)"
        " WHERE shardid = get_shard_id_for_distribution_column('payproc.payments', %s)",
        payment_ids[-1],
    )
    coordinator.rows(
        "ALTER TABLE payproc.events"
        f" ADD CHECK (current_setting('synchronous_commit') <> 'off' OR current_setting('port') = '{port}')"
    )
    coordinator.rows(f'ALTER DATABASE "{coordinator.url.database}" SET synchronous_commit = off')
    monkeypatch.setattr("payproc.machines.route", lambda _, __, ids: dict.fromkeys(ids, (0, 0)))
    with closing(Recorder(database, 1)) as recorder:
        facts = [(f"e {payment_id}", payment_id, "authorize") for payment_id in payment_ids]
        assert reasons(recorder.handle(input_events(*facts))) == ["transition"] * 8
    assert coordinator.value("SELECT count(*) FROM payproc.events") == 8


SHADOW = """
    CREATE FUNCTION public.shadow(regclass, regclass) RETURNS boolean LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'a shadow was called'; END $$;
    CREATE OPERATOR public.= (FUNCTION = public.shadow, LEFTARG = regclass, RIGHTARG = regclass);
"""


def test_routing_calls_no_operator_of_public(run: InProcess, coordinator: Sql) -> None:
    """An exact match in `public` would run as the caller."""
    assert run("init", "--citus", "--quiet").code == 0
    coordinator.rows(SHADOW)
    assert run("ingest", *SAMPLES, "--quiet").code == 3


def test_role_that_asks_for_generic_plans_records(run: InProcess, coordinator: Sql) -> None:
    """Citus cannot find a shard with one."""
    assert run("init", "--citus", "--quiet").code == 0
    coordinator.rows(f'ALTER DATABASE "{coordinator.url.database}" SET plan_cache_mode = force_generic_plan')
    for _ in range(2):
        assert run("ingest", *SAMPLES, "--quiet").code == 3


def test_lost_race_is_decided_again(
    run: InProcess, cluster: Cluster, coordinator: Sql, sql_on: SqlOn, tmp_path: Path
) -> None:
    """Two processes record the same event of a new payment at once."""
    assert run("init", "--citus", "--quiet").code == 0
    event = event_line("evt_1", "pay_1", "authorize")
    events = write_lines(tmp_path / "events.jsonl", [event])
    with ThreadPoolExecutor(1) as pool:
        first = sql_on(cluster.coordinator)
        first.rows("BEGIN")
        first.rows("INSERT INTO payproc.payments (payment_id, state, version) VALUES ('pay_1', 'authorized', 1)")
        first.rows(
            "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
            " state_after, source, run_id, line, payload) VALUES ('evt_1', 'pay_1', 1, 'authorize', 'APPLY',"
            " 'transition', 'created', 'authorized', 0, 99, 1, %s)",
            event.decode(),
        )
        second = pool.submit(run.process, "ingest", events, "--quiet", "--format", "jsonl")
        wait_for(lambda: find_blocked_backends(sql_on, cluster))
        first.rows("COMMIT")
        assert second.result()[::2] == (0, "")
    assert '"duplicate_event":1' in second.result().stdout
    assert_books_right(coordinator)


def test_claim_made_meanwhile_is_met(run: InProcess, coordinator: Sql, tmp_path: Path) -> None:
    """Another process claims event_ids between this one's look and its own claim."""
    assert run("init", "--citus", "--quiet").code == 0
    names = [f"evt_{number}" for number in range(20)]
    events = write_lines(tmp_path / "events.jsonl", [event_line(name, f"late_{name}", "authorize") for name in names])
    with ThreadPoolExecutor(1) as pool:
        with closing(coordinator.connect()) as other:
            other.autocommit = False
            with other.cursor() as cursor:
                claim = "INSERT INTO payproc.event_ids (event_id, payment_id, type) VALUES (%s, %s, 'authorize')"
                cursor.executemany(claim, [(name, f"first_{name}") for name in names])
            second = pool.submit(run.process, "ingest", events, "--quiet", "--format", "jsonl")
            coordinator.wait_for_blocked()
            other.commit()
        assert second.result()[::2] == (0, "")
    assert '"event_id_conflict":20' in second.result().stdout
    assert coordinator.value("SELECT count(*) FROM payproc.events") == 0


def test_lost_connections_to_workers_are_survived(
    run: InProcess, cluster: Cluster, coordinator: Sql, sql_on: SqlOn, tmp_path: Path
) -> None:
    """The transaction in progress is lost; the run looks again and goes on."""
    assert run("init", "--citus", "--quiet").code == 0
    lines = [event_line(f"{kind} {n}", f"pay_{n}", kind) for kind in ("authorize", "capture") for n in range(50)]
    events = write_lines(tmp_path / "events.jsonl", lines)
    assert run("ingest", "-", "--quiet", stdin=lines[0]).code == 0
    with ThreadPoolExecutor(1) as pool:
        with coordinator.locked_payment("pay_0"):
            finished = pool.submit(run.process, "ingest", events, "--quiet", "--format", "jsonl")
            for url, pids in wait_for(lambda: find_blocked_backends(sql_on, cluster)).items():
                sql_on(url).rows("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", pids)
        assert finished.result()[::2] == (0, "")
    assert coordinator.value("SELECT count(*) FROM payproc.events") == 100
    assert coordinator.rows("SELECT DISTINCT state::text FROM payproc.payments") == [("captured",)]
    assert_books_right(coordinator)


MOVE = """
    SELECT citus_move_shard_placement(shardid, nodename, nodeport, %s, %s, shard_transfer_mode := %s)
    FROM citus_shards WHERE table_name = 'payproc.payments'::regclass AND nodeport = %s LIMIT 1
"""


@pytest.mark.skipif(len(MACHINES) < 3, reason="needs two workers")
def test_shards_move_while_writes_are_blocked(
    run: InProcess, cluster: Cluster, coordinator: Sql, tmp_path: Path
) -> None:
    """Moved by logical replication, a shard lost what was not on the disk yet."""
    assert run("init", "--citus", "--quiet").code == 0
    lines = [event_line(f"{kind} {n}", f"pay_{n}", kind) for kind in ("authorize", "capture") for n in range(2_000)]
    events = write_lines(tmp_path / "events.jsonl", lines)
    first, second = cluster.workers[:2]
    moved = (second.host, second.port or 5432, "auto", first.port or 5432)
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match="cannot use logical replication to transfer shards"):
        coordinator.rows(MOVE, *moved)
    with ThreadPoolExecutor(1) as pool:
        finished = pool.submit(run.process, "ingest", events, "--quiet", "--format", "jsonl")
        wait_for(lambda: coordinator.value("SELECT count(*) FROM payproc.events"))
        for _ in range(4):
            coordinator.rows(MOVE, *moved[:2], "block_writes", moved[-1])
        assert finished.result()[::2] == (0, "")
    assert '"duplicate_event":4000' in run("ingest", events, "--quiet", "--format", "jsonl").stdout
    assert_books_right(coordinator)


def test_decisions_wait_for_the_disk_of_a_machine(run: InProcess, cluster: Cluster, coordinator: Sql) -> None:
    """Also where the machine's settings do not ask for it."""
    assert run("init", "--citus", "--quiet").code == 0
    assert run("ingest", *SAMPLES, "--quiet").code == 3
    coordinator.rows(f'ALTER DATABASE "{coordinator.url.database}" SET synchronous_commit = off')
    database = as_database(cluster.coordinator, "the cluster")
    require_schema(database)
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT current_setting('port'), current_setting('synchronous_commit')"
            " FROM payproc.payments WHERE payment_id = 'pay_coat'"
        )
        ((port, setting),) = cursor.fetchall()
    assert int(port) in {url.port for url in cluster.workers}
    assert setting == "on"
