-- Identifiers are UUIDs (16 bytes); moments are microseconds since 1970; money is in micro-units.

CREATE TABLE accounts (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    kind TEXT NOT NULL CHECK (kind IN ('lender', 'borrower')),
    name TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    UNIQUE (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE hosts (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    lender BLOB NOT NULL REFERENCES accounts (id),
    address TEXT NOT NULL,
    -- Grows with each change of one of its partitions.
    revision INTEGER NOT NULL DEFAULT 0,
    created_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A token is known by its SHA-256 alone.
CREATE TABLE tokens (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    account BLOB REFERENCES accounts (id),
    host BLOB REFERENCES hosts (id),
    created_at_us INTEGER NOT NULL,
    CHECK ((account IS NULL) <> (host IS NULL))
) STRICT, WITHOUT ROWID;

-- Patent (101)-(105). A withdrawn row stays: its epoch must not begin anew.
CREATE TABLE partitions (
    host BLOB NOT NULL REFERENCES hosts (id),
    id BLOB NOT NULL CHECK (length(id) = 16),
    terms TEXT NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('free', 'lent', 'awaiting_clean', 'withdrawn')),
-- @sqlite
    lease BLOB REFERENCES leases (id),
-- @postgres
    lease BLOB,
-- @both
    PRIMARY KEY (host, id),
    CHECK ((lease IS NOT NULL) = (state IN ('lent', 'awaiting_clean')))
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    host BLOB NOT NULL,
    partition BLOB NOT NULL,
    borrower BLOB NOT NULL REFERENCES accounts (id),
    lender BLOB NOT NULL REFERENCES accounts (id),
    epoch INTEGER NOT NULL,
    -- What both sides agreed on: terms, rounding, fee.
    contract TEXT NOT NULL,
    started_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL CHECK (expires_at_us > started_at_us),
    state TEXT NOT NULL CHECK (state IN ('active', 'ended', 'settled')),
    ended_at_us INTEGER CHECK (ended_at_us BETWEEN started_at_us AND expires_at_us),
    end_reason TEXT,
    FOREIGN KEY (host, partition) REFERENCES partitions (host, id),
    CHECK ((state = 'active') = (ended_at_us IS NULL)),
    CHECK ((ended_at_us IS NULL) = (end_reason IS NULL))
) STRICT, WITHOUT ROWID;

-- @postgres
ALTER TABLE partitions ADD FOREIGN KEY (lease) REFERENCES leases (id);
-- @both

-- Law 1: a partition has at most one live lease.
CREATE UNIQUE INDEX one_live_lease_of_a_partition ON leases (host, partition) WHERE state = 'active';
-- Law 4: no two leases of a partition have keys of one epoch.
CREATE UNIQUE INDEX one_lease_of_an_epoch ON leases (host, partition, epoch);
CREATE INDEX leases_of_a_borrower ON leases (borrower, id);
CREATE INDEX leases_that_run ON leases (expires_at_us) WHERE state = 'active';

CREATE TABLE lease_requests (
    borrower BLOB NOT NULL REFERENCES accounts (id),
    idempotency_key TEXT NOT NULL,
    request_digest BLOB NOT NULL CHECK (length(request_digest) = 32),
    lease BLOB NOT NULL REFERENCES leases (id),
    PRIMARY KEY (borrower, idempotency_key)
) STRICT, WITHOUT ROWID;

-- Law 7: what a borrower pays is what the lender and the registry get.
CREATE TABLE ledger (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    lease BLOB NOT NULL UNIQUE REFERENCES leases (id),
    borrower BLOB NOT NULL REFERENCES accounts (id),
    lender BLOB NOT NULL REFERENCES accounts (id),
    charge_micros INTEGER NOT NULL CHECK (charge_micros >= 0),
    fee_micros INTEGER NOT NULL CHECK (fee_micros >= 0),
    payment_micros INTEGER NOT NULL CHECK (payment_micros >= 0),
    CHECK (charge_micros = fee_micros + payment_micros)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_of_a_borrower ON ledger (borrower, id);
CREATE INDEX ledger_of_a_lender ON ledger (lender, id);

-- @sqlite
CREATE TRIGGER ledger_rows_stay_as_written BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_rows_stay BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- @postgres
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$;
CREATE TRIGGER ledger_rows_stay BEFORE UPDATE OR DELETE ON ledger FOR EACH ROW EXECUTE FUNCTION append_only();
-- @both

-- The registry's signing key.
CREATE TABLE issuer (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL CHECK (length(id) = 16),
    secret TEXT NOT NULL
) STRICT;
