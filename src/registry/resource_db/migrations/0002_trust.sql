-- Keys and tokens that change while they are in use.

-- The registry's signing keys, oldest first. The last whose time has come signs; those before it are trusted by hosts until
-- the leases that were made while they signed are over. A retired one keeps its public half alone.
CREATE TABLE signing_keys (
    number INTEGER PRIMARY KEY,
    public_key TEXT NOT NULL UNIQUE,
    secret TEXT,
    signs_from_us INTEGER NOT NULL,
    retired_at_us INTEGER,
    CHECK ((secret IS NULL) = (retired_at_us IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- The name of a lease's key where another has taken the place of the first, which has the lease's own name.
ALTER TABLE leases ADD COLUMN key_id BLOB;
CREATE INDEX leases_of_a_key ON leases (key_id) WHERE key_id IS NOT NULL;

-- Keys that hosts are to refuse, until they have expired.
CREATE TABLE revoked_keys (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    host BLOB NOT NULL REFERENCES hosts (id),
    until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX revoked_keys_of_a_host ON revoked_keys (host, until_us);

-- By which borrowers know the host over TLS.
ALTER TABLE hosts ADD COLUMN tls_key TEXT;

ALTER TABLE accounts ADD COLUMN blocked_at_us INTEGER;

-- A token is known by its SHA-256 alone. It is an account's, a host's, or an administrator's.
CREATE TABLE access_tokens (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    account BLOB REFERENCES accounts (id),
    host BLOB REFERENCES hosts (id),
    administrator TEXT,
    scope TEXT NOT NULL CHECK (scope IN ('full', 'read', 'enrol')),
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    -- The token that goes when this one is first used.
    replaces BLOB,
    CHECK (CASE WHEN account IS NULL THEN 0 ELSE 1 END + CASE WHEN host IS NULL THEN 0 ELSE 1 END
        + CASE WHEN administrator IS NULL THEN 0 ELSE 1 END = 1)
) STRICT, WITHOUT ROWID;

INSERT INTO access_tokens (id, digest, account, host, scope, created_at_us)
    SELECT substr(digest, 1, 16), digest, account, host, 'full', created_at_us FROM tokens;
DROP TABLE tokens;

CREATE INDEX tokens_of_an_account ON access_tokens (account) WHERE account IS NOT NULL;
CREATE INDEX tokens_of_a_host ON access_tokens (host) WHERE host IS NOT NULL;
