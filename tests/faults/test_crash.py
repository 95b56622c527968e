"""Processes killed at random moments: no reported event is lost, and a rerun completes the job.

The decision file must hold only recorded events. After the rerun, each payment must have the
events, outcomes, order and state of an uninterrupted run, which the model gives.

The seed is in the test's name: `pytest -m "slow or not slow" "FILE::TEST[SEED]"` repeats it.
"""

import random
import signal

import pytest

from tests.support.command import Payproc
from tests.support.crashes import (
    DAYS,
    FILE,
    day_of,
    empty_tables,
    ingesting,
    rerun,
    wait_for_dead_clients,
    wait_for_random_moment,
)
from tests.support.postgres import Sql, assert_books_right, contents
from tests.support.reports import DECISIONS, assert_decisions_recorded, read_decisions
from tests.support.tally import count

CRASHES = 100
SMOKE_SEEDS = (11, 23)
"""Seeds of the default run: kills after some thousand events were reported."""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(DAYS))
def test_uninterrupted_run_equals_the_model(payproc: Payproc, sql: Sql, number: int) -> None:
    """The model's days are the days that the crashes are measured against."""
    day = day_of(number)
    (payproc.folder / FILE).write_bytes(day.text)
    assert payproc("ingest", FILE, "--quiet", "--decisions", DECISIONS).code == 3
    assert read_decisions(payproc.folder / DECISIONS) == day.decisions
    assert contents(sql) == day.contents


@pytest.mark.parametrize(
    "seed", [seed if seed in SMOKE_SEEDS else pytest.param(seed, marks=pytest.mark.slow) for seed in range(CRASHES)]
)
def test_a_process_killed_at_any_moment(payproc: Payproc, sql: Sql, seed: int) -> None:
    """A killed process leaves whole events, each on record if it was reported."""
    day, chance = day_of(seed), random.Random(seed)
    while True:
        with ingesting(payproc, day, chance) as process:
            wait_for_random_moment(process, payproc, day, chance, sql)
            process.kill()
            if process.wait() == -signal.SIGKILL:
                break
        empty_tables(sql)  # the process had finished before the kill
    reported = assert_decisions_recorded(read_decisions(payproc.folder / DECISIONS), sql)
    count("events reported before a process was killed, all on record", reported)
    if chance.random() < 0.5:  # otherwise the rerun meets the commits that the server still makes for its dead client
        wait_for_dead_clients(sql)
        assert_books_right(sql)
    if sql.value("SELECT bool_or(finished_at IS NOT NULL) FROM payproc.runs"):
        assert contents(sql) == day.contents  # the kill came after the last commit
    rerun(payproc, day, sql)
    count("processes killed at a random moment")
