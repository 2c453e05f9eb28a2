-- What each server says of itself, who leads, and what servers tell each other. This file has one server only;
-- the tables are those of stores that many share, so that all are held to one contract.
ALTER TABLE servers ADD COLUMN said TEXT;
ALTER TABLE servers ADD COLUMN edition INTEGER NOT NULL DEFAULT 0;

CREATE TABLE leader (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    server TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE letters (
    server TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (server, number)
) STRICT;
CREATE INDEX letters_old ON letters (at);
