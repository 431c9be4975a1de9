-- What hosts state, signed, of what their leases had.

-- What the host signs with; it goes into the leases that are made from now on.
ALTER TABLE hosts ADD COLUMN receipt_key TEXT;

-- Each as it was signed; it was checked when it came.
CREATE TABLE segments (
    lease BLOB NOT NULL REFERENCES leases (id),
    number INTEGER NOT NULL CHECK (number >= 0),
    text TEXT NOT NULL,
    signature TEXT NOT NULL,
    received_at_us INTEGER NOT NULL,
    PRIMARY KEY (lease, number)
) STRICT, WITHOUT ROWID;

-- @sqlite
CREATE TRIGGER segments_stay_as_written BEFORE UPDATE ON segments
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
CREATE TRIGGER segments_stay BEFORE DELETE ON segments
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
-- @postgres
CREATE TRIGGER segments_stay BEFORE UPDATE OR DELETE ON segments FOR EACH ROW EXECUTE FUNCTION append_only();
-- @both

-- What hosts found changed behind their agents' backs while a partition was lent; the same said again is one.
CREATE TABLE violations (
    lease BLOB NOT NULL REFERENCES leases (id),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    at_us INTEGER NOT NULL,
    -- JSON.
    violation TEXT NOT NULL,
    PRIMARY KEY (lease, digest)
) STRICT, WITHOUT ROWID;
