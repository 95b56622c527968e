"""Names: the database in messages, and the variables of libpq's parameters.

Belongs here: the name by which a person recognizes a database, before and after it is connected. It
never holds a password or the query part of a connection string.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import psycopg2.extensions

_DEFAULT_PORT = 5432

_VARIABLES = {"dbname": "PGDATABASE", "application_name": "PGAPPNAME", "connect_timeout": "PGCONNECT_TIMEOUT"}
"""Variables that are not PG and the parameter without its underscores."""


def name_variable(parameter: str) -> str:
    """Return the environment variable that stands in for a parameter of libpq."""
    return _VARIABLES.get(parameter, f"PG{parameter.replace('_', '').upper()}")


def guess_name(parameters: Mapping[str, str]) -> str:
    """Return the name of the database that libpq would connect to.

    Variables stand in for missing parameters. A service decides by its file, which only libpq
    reads.
    """
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    variables = {} if service else os.environ

    def given(name: str) -> str:
        return parameters.get(name) or variables.get(name_variable(name), "")

    host = given("hostaddr") or given("host") or ("" if service else "local socket")
    name = _compose_name(given("user"), host, given("port"), given("dbname"))
    return f"{name}?service={service}" if service else name


def read_name(connection: psycopg2.extensions.connection, given_port: str) -> str:
    """Return the name of the database that this connection is to.

    A default port is omitted unless it was given.
    """
    info = connection.info
    host = info.host
    if info.dsn_parameters.get("hostaddr"):  # it overrides the host; the driver does not say which one of a list
        with socket.socket(fileno=os.dup(connection.fileno())) as link, suppress(OSError):  # a dead connection
            host = link.getpeername()[0]
    port = "" if info.port == _DEFAULT_PORT and not given_port else str(info.port)
    return _compose_name(info.user, host, port, info.dbname)


def _compose_name(user: str, host: str, port: str, dbname: str) -> str:
    host = f"[{host}]" if ":" in host and not host.startswith("/") else host
    return f"postgresql://{user}{user and '@'}{host}{port and ':'}{port}/{dbname}"
