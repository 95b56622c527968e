"""pgbench with payproc's own trick: asynchronous commits, and one flush for all of them at the end.

Each client runs the statement of pgbench_statement.py. So this is a bound on what one transaction
per event costs on this server if nothing waits for the disk; nothing is read from a file, parsed,
sent or reported.
"""

from collections.abc import Iterator

from harness import BenchServer, Dataset, Measured, Row
from pgbench_statement import run, stage

LABEL = "pgbench, asynchronous commits and one flush"

CLIENTS = (1, 2, 4, 8)


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Fresh events, with the best number of clients."""
    runs = []
    for clients in CLIENTS:
        per_client = max(1, len(dataset.fresh) // clients)
        with bench.database(with_schema=True) as database:
            lines = dataset.fresh[: clients * per_client]
            stage(database, lines)
            runs.append(run(bench, database, Row.FRESH, clients, per_client, waits=False))
            database.check_books(len(lines))
    yield max(runs, key=lambda each: each.rate)
