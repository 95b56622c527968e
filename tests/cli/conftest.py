"""Fixtures of the command's tests: the command in this process, and a database for a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Server


@pytest.fixture
def run_in_process(tmp_path: Path, url: URL) -> InProcess:
    """The command on the test's own database, in this process."""
    return InProcess(tmp_path, url)


@pytest.fixture(scope="module")
def shared(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """The command on a database that the module's tests share. They only read it."""
    url = server.create_database(template)
    yield InProcess(tmp_path_factory.mktemp("shared"), url)
    server.drop_database(url.database)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file of one event that applies."""
    return write_lines(tmp_path / "good.jsonl", [event_line("e1", "p1", "authorize")])
