"""Instructions that PostgreSQL executes for an event, counted by valgrind: a figure that noise does
not move.

One backend runs the look-ups and the CALLs of a worker, over fresh events, once for few batches and
once for more; the difference is what the events of the latter cost. It counts that backend alone,
not the WAL writer or the checkpointer.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2

from datasets import Line, fresh
from payproc.batch import InputEvent
from payproc.db import connection as db
from payproc.db import schema
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from payproc.explain import Malformed
from payproc.handlers import Recorder
from payproc.runs import open_run
from payproc.schemas import parse_line

FEW_BATCHES = 2
MANY_BATCHES = 4


def measure_instructions(batch: int) -> None:
    """Print the instructions of the server for an event, in batches of so many."""
    few, many = (_count(batch, batches) for batches in (FEW_BATCHES, MANY_BATCHES))
    events = (MANY_BATCHES - FEW_BATCHES) * batch
    print(f"fresh events in batches of {batch:,}: {(many - few) / events:,.0f} instructions of the server an event")


def _count(batch: int, batches: int) -> int:
    home = Path(tempfile.mkdtemp(prefix="payproc-benchmark-"))
    with run_server(home) as server:
        schema.bring_up(db.Database(server.connect_args, "the benchmark's"))
        program = Path(f"/proc/{(home / 'data' / 'postmaster.pid').read_text().split()[0]}/exe").resolve()
    owner = (home / "data").stat()
    as_owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    command = [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--trace-children=yes",
        f"--callgrind-out-file={home}/counted.%p",
        str(program),
        "-D",
        str(home / "data"),
        "-c",
        "listen_addresses=",
        "-c",
        f"unix_socket_directories={home}",
        "-c",
        "autovacuum=off",
        "-c",
        "jit=off",
    ]
    parameters = {"host": str(home), "user": SUPERUSER, "dbname": "postgres"}
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_owner
    ) as process:
        try:
            _wait(parameters)
            database = db.Database(parameters, "the benchmark's")
            with closing(Recorder(database, open_run(database, ["benchmark"]))) as recorder:
                with recorder._connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    ((pid,),) = cursor.fetchall()
                lines = list(fresh(batch * batches, 0))
                for number in range(batches):
                    recorder.handle(_received(lines[number * batch : (number + 1) * batch], number * batch))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
    total = re.search(r"^(?:totals|summary): (\d+)", (home / f"counted.{pid}").read_text(), re.MULTILINE)
    assert total is not None
    shutil.rmtree(home)
    return int(total[1])


def _wait(parameters: dict[str, Any]) -> None:
    for _ in range(600):
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(**parameters).close()
            return
        time.sleep(0.1)
    raise SystemExit("the server under valgrind did not start within a minute")


def _received(lines: Sequence[Line], first: int) -> list[InputEvent]:
    result = []
    for number, line in enumerate(lines, first):
        parsed = parse_line(line.text.encode())
        assert not isinstance(parsed, Malformed)
        result.append(InputEvent(*parsed, 0, number))
    return result
