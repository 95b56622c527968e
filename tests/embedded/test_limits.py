"""Limits of a session: they are raised for the server, because other commands use it as well."""

import re
import resource
import sys
from pathlib import Path

import pytest

from payproc.embedded.server import run_server
from tests.support.homes import Holder, read_server_process, run_command


@pytest.mark.slow
def test_soft_file_limit_is_raised(home: Path) -> None:
    done = run_command(home, "init", limits="ulimit -S -f 2000")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_server_has_the_highest_limits(made_home: Path) -> None:
    """The limits of this process stay as they were."""
    before = {number: resource.getrlimit(number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)}
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[resource.RLIMIT_NOFILE][1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, before[resource.RLIMIT_FSIZE][1]))
        with run_server(made_home):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 200
            limits = Path(f"/proc/{read_server_process(made_home)}/limits").read_text().splitlines()[1:]
    finally:
        for number, limit in before.items():
            resource.setrlimit(number, limit)
    columns = [re.split(r"  +", line) for line in limits]
    assert [name for name, soft, hard, *_ in columns if soft != hard and name != "Max core file size"] == []


def test_hard_file_limit_is_refused(made_home: Path) -> None:
    """It would harm other commands, so no server starts. A server of another command is used."""
    done = run_command(made_home, "init", limits="ulimit -f 100000")
    assert done.returncode == 1
    assert done.stderr == (
        "payproc: the embedded database writes files of up to 1,073,741,824 bytes, but this session may write only "
        "102,400,000 (ulimit -f); allow larger files, or name a server with --database-url\n"
    )
    holder = Holder(made_home).wait_until_connected()
    assert run_command(made_home, "init", limits="ulimit -f 100000").returncode == 0
    assert holder.end() == 0
