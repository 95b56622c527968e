"""Databases of earlier versions and catalogs of a new schema, shared by the tests of the way up."""

from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.in_process import InProcess
from tests.support.old_schemas import Catalog, NewCatalog, NewOldDatabase, OldDatabase, catalog, load_version
from tests.support.postgres import NewDatabase, SqlOn, as_database, create_schema


@pytest.fixture
def bare_url(new_database: NewDatabase) -> URL:
    """Create a database of one server, also where the others are on a cluster."""
    return new_database("template0", "UTF8")


@pytest.fixture
def old(new_database: NewDatabase, sql_on: SqlOn, tmp_path: Path) -> NewOldDatabase:
    """Databases of an earlier version."""

    def make(*, version: int = 1) -> OldDatabase:
        url = new_database("template0", "UTF8")
        sql = sql_on(url)
        load_version(sql, version)
        return OldDatabase(url, sql, InProcess(tmp_path, url))

    return make


@pytest.fixture
def new_catalog(new_database: NewDatabase, sql_on: SqlOn) -> NewCatalog:
    """The catalog of a new schema, to compare with."""

    def make() -> Catalog:
        url = new_database("template0", "UTF8")
        with as_database(url, "a new database").transaction() as cursor:
            create_schema(cursor)
        return catalog(sql_on(url))

    return make
