"""
The schema's version, and the migrations when it is not the current one.

Alembic takes longer to import than a ledger to open, so it is left alone while the version matches.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from handfast.errors import Fault
from handfast.ledger.database import Database

CURRENT = "0004"  # the newest revision in ``migrations/versions``
_VERSION = "SELECT version_num FROM alembic_version"
_LOCK = 0x68616E6466617374  # pg_advisory_xact_lock takes any 64 bits: "handfast"


def ensure(database: Database) -> None:
    """
    Bring the tables to the current version.

    :raises Fault: a version that this Handfast does not know, or a migration failed (nothing was changed).
    """
    connection = database.connect()
    try:
        row = connection.execute(_VERSION).fetchone()
    except database.driver_errors:
        row = None  # no such table, or a file that is no database: the migration will say so
    finally:
        connection.close()
    if row is None or row[0] != CURRENT:
        _migrate(database)


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "handfast.ledger:migrations")
    try:
        with database.engine.connect() as connection:
            # One transaction for all, taken before looking again: another process may be doing the same.
            connection.exec_driver_sql(database.begin)
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            try:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
    except CommandError as error:
        raise Fault(
            f"the ledger {database.name!r} has a schema that this version does not know: {error}",
            hint="use the Handfast that wrote it, or a newer one",
        ) from error
    except (*database.driver_errors, DBAPIError) as error:  # type: ignore[misc]  # mypy knows no unpacked tuple here
        raise database.fault(error) from error
