-- Several registries at one database: which there are, which hosts each of them hears, and what each has changed.

CREATE TABLE registries (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    -- When it last said that it lives.
    seen_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE hosts_heard (
    registry BLOB NOT NULL REFERENCES registries (id) ON DELETE CASCADE,
    host BLOB NOT NULL REFERENCES hosts (id),
    PRIMARY KEY (registry, host)
) STRICT, WITHOUT ROWID;

-- @postgres
-- What was announced, for the other registries. A transaction is told by its number: numbers of rows alone would not do,
-- as a transaction may commit after another whose numbers are higher.
CREATE TABLE changes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction BIGINT NOT NULL DEFAULT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT),
    at_us BIGINT NOT NULL,
    registry BYTEA NOT NULL,
    -- JSON.
    change TEXT NOT NULL
);
CREATE INDEX changes_of_a_transaction ON changes (transaction);
CREATE INDEX changes_by_age ON changes (at_us);
-- @both
