"""Homes of embedded servers. A test fails if it leaves a server behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import NOBODY, copy_home, succeed, temporary_folder


@pytest.fixture(scope="session")
def home_template() -> Iterator[Path]:
    """A home with a stopped database in it, to be copied."""
    with temporary_folder() as folder:
        succeed(folder / "home", "init")
        yield folder / "home"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for homes, open to other users."""
    with temporary_folder() as path:
        yield path


@pytest.fixture
def home(folder: Path) -> Path:
    """A home that does not exist yet."""
    return folder / "home"


@pytest.fixture
def made_home(home: Path, home_template: Path) -> Path:
    """A home with a stopped database in it."""
    return copy_home(home_template, home)


@pytest.fixture
def made_long_home(folder: Path, home_template: Path) -> Path:
    """A home with a stopped database in it, whose path is too long for a socket."""
    path = folder / ("long" * 25) / ("home" * 25)
    path.parent.mkdir()
    return copy_home(home_template, path)


@pytest.fixture
def users_folder(folder: Path) -> Path:
    """A folder of the user nobody, who may swap its entries at any moment."""
    path = folder / "users"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.fixture
def secret_folder(folder: Path) -> Path:
    """An empty folder that root keeps to itself."""
    path = folder / "secret"
    path.mkdir(mode=0o700)
    return path
