-- What those who run the registry did with accounts: an act that is an entry of the ledger has its name.
CREATE TABLE acts (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    at_us INTEGER NOT NULL,
    -- The administrator's name and token at that time; none: it was done by the registry's program, at the database.
    administrator TEXT,
    token BLOB,
    -- JSON.
    act TEXT NOT NULL,
    CHECK ((administrator IS NULL) = (token IS NULL))
) STRICT, WITHOUT ROWID;

-- @sqlite
CREATE TRIGGER acts_stay_as_written BEFORE UPDATE ON acts
BEGIN SELECT RAISE(ABORT, 'acts are append-only'); END;
CREATE TRIGGER acts_stay BEFORE DELETE ON acts
BEGIN SELECT RAISE(ABORT, 'acts are append-only'); END;
-- @postgres
CREATE TRIGGER acts_stay BEFORE UPDATE OR DELETE ON acts
FOR EACH ROW EXECUTE FUNCTION append_only();
-- @both
