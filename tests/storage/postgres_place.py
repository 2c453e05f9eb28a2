"""A schema in which a test has its tables."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

TABLES = """
SELECT string_agg(format('DELETE FROM %%I.%%I', schemaname, tablename), ';') FROM pg_tables
WHERE schemaname = %s AND tablename <> 'schema_versions'
"""


@dataclass(frozen=True)
class Schema:
    """One in the database *server*; *url* opens a store in it."""

    server: str
    name: str

    @property
    def url(self) -> str:
        return f"{self.server}{'&' if '?' in self.server else '?'}schema={self.name}"

    def execute(self, statement: str) -> None:
        """Have *statement* done, ``{}`` in it being the schema."""
        with psycopg.connect(self.server, autocommit=True) as db:
            db.execute(sql.SQL(statement).format(sql.Identifier(self.name)))

    def empty(self) -> None:
        """Delete all that is in it, and let arrivals count from 1 again."""
        with psycopg.connect(self.server, autocommit=True) as db:
            found = db.execute(TABLES, (self.name,)).fetchone()
            assert found is not None
            db.execute(found[0])
        self.execute("ALTER SEQUENCE {}.arrivals RESTART")
