"""Ask a database server whether it can be used, and say why it cannot; nothing is made there."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.errors import first_line

# The least that PostgreSQL's client takes is 2.
CONNECT_TIMEOUT_S = 3


def check_database(url: str, table: str | None) -> None:
    """Connect to a database once.

    Args:
        url: The database, as SQLAlchemy takes it.
        table: A table that the job makes where there is none; None where it only reads.

    Raises:
        SQLAlchemyError: It cannot be used; `why_not` says why.
        OSError: It answers, but tables cannot be made; the message says why, and what helps.
    """
    options: dict[str, Any] = {}
    is_postgres = url.startswith("postgresql")
    if is_postgres:
        options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options)
    with engine.connect() as connection:
        if not is_postgres or table is None:
            return
        reads_only = connection.execute(sqlalchemy.text("SHOW transaction_read_only")).scalar()
        if reads_only == "on":
            raise OSError("it only reads, as a standby server does; give the primary server")
        is_there = sqlalchemy.text("SELECT to_regclass(:table) IS NOT NULL")
        if connection.execute(is_there, {"table": table}).scalar():
            return
        can_make = sqlalchemy.text(
            "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
        )
        schema, may = connection.execute(can_make).one()
        if schema is None:
            raise OSError("none of the schemas in its search_path exists; make one of them")
        if not may:
            user = connection.execute(sqlalchemy.text("SELECT current_user")).scalar()
            raise OSError(
                f"{user} may not make tables in its schema {schema}; its owner allows it by: "
                f'GRANT CREATE ON SCHEMA {schema} TO "{user}"'
            )


def why_not(url: str, error: BaseException) -> str:
    """Return why a database cannot be used, and what helps, as the end of a sentence.

    Args:
        url: The database.
        error: What SQLAlchemy or its driver has raised.
    """
    original: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        original = error.orig
    said = first_line(original)
    parts = _parts(url)
    if parts is None:
        return said
    for pattern, advice in _CAUSES:
        # PostgreSQL's client tries several addresses of a host, and names each in a line.
        if re.search(pattern, str(original)):
            return advice.format(
                host=parts.host or "localhost",
                port=parts.port or 5432,
                user=parts.username,
                database=parts.database,
            )
    return said


# What PostgreSQL and its client say, and what that means for a person.
_CAUSES = (
    (
        "no password supplied",
        "it wants a password of {user}; put it into PGPASSWORD or ~/.pgpass",
    ),
    (
        "password authentication failed",
        "it does not accept the password of {user}, or has no such user; correct PGPASSWORD or "
        "~/.pgpass, or the user",
    ),
    (
        'database ".*" does not exist',
        "it has no database {database}; make it with: "
        "createdb -h {host} -p {port} -U {user} {database}, or give another one",
    ),
    (
        'role ".*" does not exist',
        "it has no user {user}; make it with: createuser -h {host} -p {port} {user}, or give "
        "another one",
    ),
    (
        "does not support SSL",
        "it offers no TLS, which sslmode demands; switch TLS on there, or leave out sslmode and "
        "PGSSLMODE",
    ),
    (
        "no pg_hba.conf entry.*no encryption",
        "it lets {user} in from here only with TLS, if at all; set PGSSLMODE=require, or add an "
        "entry to its pg_hba.conf",
    ),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        "it does not let {user} in from here; add an entry to its pg_hba.conf",
    ),
    (
        "certificate verify failed|root certificate|server certificate for",
        "its certificate does not pass the check that sslmode demands; name the file of the "
        "authority that has signed it in PGSSLROOTCERT",
    ),
    (
        "too many clients|too many connections|remaining connection slots",
        "all its connections are taken; raise max_connections there, or start fewer workers",
    ),
    (
        "starting up|shutting down|recovery mode",
        "it is starting or stopping; give the same command again in a moment",
    ),
    (
        "[Cc]onnection refused",
        "nothing answers at {host}:{port}; start PostgreSQL there, or correct host and port",
    ),
    (
        "timeout expired|timed out|statement timeout",
        "nothing has answered at {host}:{port} for some seconds; look whether PostgreSQL works "
        "there, and whether a firewall lies between",
    ),
    (
        "resolve|translate host|Name or service not known|nodename",
        "there is no host {host}, or no network; correct the name",
    ),
    (
        "SSL negotiation|invalid response|expected authentication|lost synchronization",
        "what answers at {host}:{port} is no PostgreSQL; correct host and port",
    ),
    (
        "permission denied for database",
        "{user} may not use its database {database}; its owner allows it by GRANT CONNECT",
    ),
    (
        "closed the connection unexpectedly|reset by peer",
        "what answers at {host}:{port} ends the connection; look whether it is PostgreSQL, and at "
        "its log",
    ),
)


def is_url(url: str) -> bool:
    """Return whether the address of a database can be read."""
    return _parts(url) is not None


def _parts(url: str) -> URL | None:
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError):
        return None
