-- What each server says of itself, who leads, and what servers tell each other.
ALTER TABLE servers ADD COLUMN said text;
ALTER TABLE servers ADD COLUMN edition integer NOT NULL DEFAULT 0;

CREATE TABLE leader (
    one integer PRIMARY KEY CHECK (one = 1),
    server text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- ordinal is the order in which they were written; a reader goes by the numbers of each server, which are in the
-- order of its commits.
CREATE TABLE letters (
    ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    server text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    at bigint NOT NULL,
    body bytea NOT NULL,
    UNIQUE (server, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX letters_old ON letters (at);
