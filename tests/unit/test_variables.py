"""Variables: the environment that leads another program to a database, and nowhere else."""

import pytest

from payproc.db.variables import Target, build_environment
from payproc.errors import WrongUsage

ELSEWHERE = {
    "PGHOST": "elsewhere",
    "PGHOSTADDR": "127.0.0.2",
    "PGSERVICE": "elsewhere",
    "PGSERVICEFILE": "/elsewhere",
    "PGPASSWORD": "another",
    "PGOPTIONS": "-c role=another",
}
"""Variables of the caller that would lead to another database, or to other rights."""

NEUTRAL = {"PATH": "/bin", "PGTZ": "Asia/Tokyo", "PGCLIENTENCODING": "latin1", "PG_COLOR": "never", "PAYPROC_HOME": "h"}


def build(password: str = "", **parameters: str) -> dict[str, str]:
    return build_environment({**ELSEWHERE, **NEUTRAL}, Target(parameters, password, 18, uses_tls=False))


def test_environment_leads_nowhere_else() -> None:
    assert build(host="db", dbname="books") == {**NEUTRAL, "PGHOST": "db", "PGDATABASE": "books"}


def test_environment_has_each_parameter() -> None:
    named = build(
        host="a,b",
        port="5432,5433",
        user="alice",
        options="-c search_path=x",
        passfile="/pass",
        sslmode="verify-full",
        sslrootcert="/root.pem",
        ssl_min_protocol_version="TLSv1.3",
        target_session_attrs="read-write",
        load_balance_hosts="random",
        require_auth="scram-sha-256",
        application_name="books",
        connect_timeout="3",
        client_encoding="utf8",
        password="secret",
    )
    assert named == {
        **NEUTRAL,
        "PGHOST": "a,b",
        "PGPORT": "5432,5433",
        "PGUSER": "alice",
        "PGOPTIONS": "-c search_path=x",
        "PGPASSFILE": "/pass",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/root.pem",
        "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGLOADBALANCEHOSTS": "random",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGAPPNAME": "books",
        "PGCONNECT_TIMEOUT": "3",
        "PGCLIENTENCODING": "utf8",
        "PGPASSWORD": "secret",
    }


def test_keepalives_are_omitted() -> None:
    """They have no variable, and change neither the database nor the results."""
    assert build(keepalives_idle="9", tcp_user_timeout="9", fallback_application_name="payproc") == NEUTRAL


@pytest.mark.parametrize("name", ["sslpassword", "replication"])
def test_parameter_without_variable_is_refused(name: str) -> None:
    with pytest.raises(WrongUsage, match=rf"^cannot pass on the parameter {name}, which has no environment variable; "):
        build(host="db", **{name: "secret"})
