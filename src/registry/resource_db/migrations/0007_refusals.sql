-- A request for a lease that was refused stays refused under its idempotency key: the same one, sent first and on its way for
-- longer, must not be granted to somebody who was told no.
ALTER TABLE lease_requests RENAME TO lease_requests_granted;
CREATE TABLE lease_requests (
    borrower BLOB NOT NULL REFERENCES accounts (id),
    idempotency_key TEXT NOT NULL,
    request_digest BLOB NOT NULL CHECK (length(request_digest) = 32),
    lease BLOB REFERENCES leases (id),
    -- JSON: the answer, where it was refused.
    refusal TEXT,
    PRIMARY KEY (borrower, idempotency_key),
    CHECK ((lease IS NULL) <> (refusal IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO lease_requests (borrower, idempotency_key, request_digest, lease)
SELECT borrower, idempotency_key, request_digest, lease FROM lease_requests_granted;
DROP TABLE lease_requests_granted;
