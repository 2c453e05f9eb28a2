"""The tables of the PostgreSQL store, made and brought up to date by one of however many servers start."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Final
from zlib import crc32

from psycopg import errors

from tq.core.errors import SchemaMismatch, StorageInUse, StorageUnavailable
from tq.storage.postgres_link import SILENT_LONG_S, Connection, Target, quoted, told_as_ours
from tq.storage.postgres_sql import LOCK_SPACE

HAS_SCHEMA: Final = "SELECT count(*) FROM pg_namespace WHERE nspname = $1"
HAS_TABLE: Final = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1 AND relname = 'schema_versions'
"""
CREATE_VERSIONS: Final = "CREATE TABLE schema_versions (version integer PRIMARY KEY)"
SELECT_VERSION: Final = "SELECT coalesce(max(version), 0) FROM schema_versions"
INSERT_VERSION: Final = "INSERT INTO schema_versions (version) VALUES ($1)"
BELOW_MIGRATING: Final = 2**30
"""The lock of who copies to where there are no tables is so far below that of who migrates."""


def migrations() -> list[str]:
    """The statements of each migration, the one to version 1 first."""
    folder = files("tq.storage").joinpath("migrations", "postgres")
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    return [entry.read_text(encoding="utf-8") for entry in found]


def migrate(db: Connection, target: Target, scripts: Sequence[str]) -> None:
    """Run those of *scripts* that have not been run, all in one transaction or none of them.

    Whoever comes meanwhile waits, and then finds it done. In a transaction of the caller it is done once that
    is committed.

    Raises:
        SchemaMismatch: The tables are those of a newer tq.
        StorageInUse: A store is being copied to where there are none.
        StorageUnavailable: There are none, and this role may not make them.
    """
    if schema_version(db, target) == len(scripts):
        return
    with db.patient(SILENT_LONG_S), db.transaction():
        # Others may take as long as a large migration does.
        db.execute("SET LOCAL lock_timeout = 0")
        db.execute("SET LOCAL statement_timeout = 0")
        if not _try_lock(db, target, "pg_try_advisory_xact_lock_shared"):
            raise StorageInUse(f"{target.name} is being copied into: start when that has ended")
        db.execute("SELECT pg_advisory_xact_lock($1::integer, $2::integer)", (LOCK_SPACE, _lock_of(target)))
        try:
            _run(db, target, scripts)
        except errors.InsufficientPrivilege as error:
            raise StorageUnavailable(
                f"{target.name}: the role {db.info.user} may not make the tables of tq"
                f" ({error.diag.message_primary}):"
                f" run once as an administrator: CREATE SCHEMA {quoted(target.schema)} AUTHORIZATION"
                f" {quoted(db.info.user)};"
            ) from error


def describe(db: Connection, target: Target) -> str:
    """What there is of tq, in a few words. Raises SchemaMismatch."""
    with told_as_ours(target):
        version, known = schema_version(db, target), len(migrations())
    found = f"schema {target.schema} has version {version}" if version else "the first start makes the tables"
    upgraded = f", which the next start brings to {known}" if 0 < version < known else ""
    return f"{target.name}, version {db.info.server_version // 10_000}: {found}{upgraded}"


def claim_making(db: Connection, target: Target) -> bool:
    """Keep all others from making or changing tables until the transaction ends; False if one is at it.

    They are refused. What a copy makes is seen by nobody before it has ended, so they could only wait for it.
    """
    return _try_lock(db, target, "pg_try_advisory_xact_lock")


def _try_lock(db: Connection, target: Target, function: str) -> bool:
    parameters = (LOCK_SPACE, _lock_of(target) - BELOW_MIGRATING)
    [(has_it,)] = db.execute(f"SELECT {function}($1::integer, $2::integer)", parameters).fetchall()
    return bool(has_it)


def _lock_of(target: Target) -> int:
    # Below no lock of the batches, which are few and small.
    return -1 - crc32(target.schema.encode()) % 2**30


def schema_version(db: Connection, target: Target) -> int:
    """The version of the tables, 0 if there are none. Raises SchemaMismatch."""
    [(has_table,)] = db.execute(HAS_TABLE, (target.schema,)).fetchall()
    if not has_table:
        return 0
    [(version,)] = db.execute(SELECT_VERSION).fetchall()
    known = len(migrations())
    if version > known:
        raise SchemaMismatch(
            f"{target.name} has schema version {version}, this tq knows up to {known}: use a newer tq",
            version=version,
            known=known,
        )
    return int(version)


def _run(db: Connection, target: Target, scripts: Sequence[str]) -> None:
    [(has_schema,)] = db.execute(HAS_SCHEMA, (target.schema,)).fetchall()
    if not has_schema:
        db.execute(f"CREATE SCHEMA {quoted(target.schema)}")
    done = schema_version(db, target)
    [(has_table,)] = db.execute(HAS_TABLE, (target.schema,)).fetchall()
    if not has_table:
        db.execute(CREATE_VERSIONS)
    for version, script in enumerate(scripts[done:], done + 1):
        # Without parameters, so that it may be many statements.
        db.execute(script, prepare=False)
        db.execute(INSERT_VERSION, (version,))
