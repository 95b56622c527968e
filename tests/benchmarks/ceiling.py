"""The client's ceiling: events per second that payproc could handle if the server cost nothing.

The whole of `payproc ingest` runs in this process, reading, parsing, deciding and reporting;
psycopg2 still quotes every value. Only sending is left out: each look-up finds nothing, and each
CALL has recorded everything. So events that follow another of their payment in the same batch are
decided as on a real server, others as if they were the first.
"""

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2.extensions

from datasets import fresh, write
from harness import BenchServer
from payproc.db import connection as db
from payproc.db import schema
from payproc.ingest import run as ingest
from payproc.ingest.run import Ingest, Options
from payproc.signals import Interrupt


class SilentCursor(psycopg2.extensions.cursor):
    """A cursor that prepares statements and sends only the short ones around a run."""

    _answer: tuple[tuple[Any, ...], ...] | None = None

    def execute(self, query: Any, arguments: Any = None) -> None:
        """Quote the arguments; pretend that a look-up finds nothing and a CALL has recorded
        everything."""
        is_call = query.startswith("CALL")
        is_silent = is_call or ("string_to_array" in query and query.lstrip().startswith("SELECT"))
        self._answer = None
        if is_silent:
            self.mogrify(query, arguments)
            self._answer = (("",),) if is_call else ()
        else:
            super().execute(query, arguments)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the row of a CALL, or the rows of a real query."""
        return super().fetchall() if self._answer is None else list(self._answer)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:  # type: ignore[override]
        return super().__iter__() if self._answer is None else iter(self._answer)


def measure_ceiling(bench: BenchServer, folder: Path, events: int, rounds: int) -> None:
    """Print the events per second of processor time, the best and the median of some rounds."""
    file = folder / "ceiling.jsonl"
    write(file, fresh(events, 0))
    parameters: dict[str, Any] = {**bench.main.parameters, "cursor_factory": SilentCursor}
    database = db.Database(parameters, "the benchmark's")
    schema.bring_up(database)
    rates = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        job = Ingest(database, [str(file)], Options(workers=2))
        job.run(Interrupt())
        rates.append(events / (time.process_time() - began))
        assert job.summary.events == events
    rates.sort()
    print(
        f"the client's ceiling, server left out, rounds of {ingest.ROUND_LINES:,} lines: "
        f"{rates[len(rates) // 2]:,.0f} events/s of processor time (median of {rounds}; best {rates[-1]:,.0f})"
    )
