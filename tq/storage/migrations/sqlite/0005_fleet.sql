-- What each server says of itself, who leads, and what servers tell each other. This file has one server only;
-- the tables are those of stores that many share, so that all are held to one contract.
ALTER TABLE servers ADD COLUMN said TEXT;
ALTER TABLE servers ADD COLUMN edition INTEGER NOT NULL DEFAULT 0;

CREATE TABLE leader (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    server TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- ordinal is the order in which they were written; a reader goes by the numbers of each server.
CREATE TABLE letters (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (server, number)
) STRICT;
CREATE INDEX letters_old ON letters (at);
