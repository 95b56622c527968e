"""pgbench once more, with payproc's own trick: commits that do not wait, and one flush for all of them at the end.

Each client does per event what it does in pgbench_statement.py. So this is a bound on what one transaction per event
costs on this server if nothing waits for the disk; nothing is read from a file, parsed, sent or reported.
"""

from collections.abc import Iterator

from ground import Day, Ground, Measured, Row
from pgbench_statement import run, stage

LABEL = "pgbench, asynchronous commits and one flush"

CLIENTS = (1, 2, 4, 8)


def measure(ground: Ground, day: Day) -> Iterator[Measured]:
    """Fresh events, with the best number of clients."""
    runs = []
    for clients in CLIENTS:
        per_client = max(1, len(day.fresh) // clients)
        with ground.database(with_schema=True) as database:
            lines = day.fresh[: clients * per_client]
            stage(database, lines)
            runs.append(run(ground, database, Row.FRESH, clients, per_client, waits=False))
            database.check_books(len(lines))
    yield max(runs, key=lambda each: each.rate)
