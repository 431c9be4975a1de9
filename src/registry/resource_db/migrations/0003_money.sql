-- Leases that are renewed, recalled and bound by a budget; a ledger of balanced entries, and how each account stands.

-- What the planned end (expires_at_us) is the soonest of, beside what the contract and the budget give.
ALTER TABLE leases ADD COLUMN asked_until_us INTEGER NOT NULL DEFAULT 0;
UPDATE leases SET asked_until_us = expires_at_us;
ALTER TABLE leases ADD COLUMN budget_micros INTEGER CHECK (budget_micros >= 0);
ALTER TABLE leases ADD COLUMN recalled_at_us INTEGER;
ALTER TABLE leases ADD COLUMN recall_until_us INTEGER CHECK ((recall_until_us IS NULL) = (recalled_at_us IS NULL));
-- What it holds of its borrower's credit while it runs; leases of before hold nothing.
ALTER TABLE leases ADD COLUMN worst_case_micros INTEGER NOT NULL DEFAULT 0 CHECK (worst_case_micros >= 0);

-- The last moment that is known at which the host was heard: written when it is first heard, and now and then.
ALTER TABLE hosts ADD COLUMN confirmed_at_us INTEGER;

CREATE TABLE host_requests (
    lender BLOB NOT NULL REFERENCES accounts (id),
    idempotency_key TEXT NOT NULL,
    request_digest BLOB NOT NULL CHECK (length(request_digest) = 32),
    host BLOB NOT NULL REFERENCES hosts (id),
    PRIMARY KEY (lender, idempotency_key)
) STRICT, WITHOUT ROWID;

-- Each entry has four legs: what it adds to a borrower's account, to a lender's, to the registry's fees, and to the
-- world outside.
CREATE TABLE entries (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    at_us INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('lease', 'deposit', 'payout', 'credit')),
    borrower BLOB REFERENCES accounts (id),
    lender BLOB REFERENCES accounts (id),
    lease BLOB REFERENCES leases (id),
    currency TEXT NOT NULL CHECK (length(currency) = 3),
    borrower_micros INTEGER NOT NULL,
    lender_micros INTEGER NOT NULL,
    fees_micros INTEGER NOT NULL,
    outside_micros INTEGER NOT NULL,
    reason TEXT,
    reference TEXT,
    -- Seals the entry with its lease; none: it was made before entries were sealed.
    digest BLOB CHECK (length(digest) = 32),
    -- Law 7: what a borrower pays is what the lender and the registry get.
    CHECK (borrower_micros + lender_micros + fees_micros + outside_micros = 0),
    CHECK ((borrower IS NULL) = (kind = 'payout')),
    CHECK ((lender IS NULL) = (kind = 'deposit')),
    CHECK ((lease IS NULL) = (kind IN ('deposit', 'payout'))),
    CHECK ((reference IS NULL) = (kind = 'lease')),
    CHECK ((reason IS NULL) = (kind <> 'credit')),
    CHECK (kind <> 'lease'
        OR (borrower_micros <= 0 AND lender_micros >= 0 AND fees_micros >= 0 AND outside_micros = 0)),
    CHECK (kind <> 'deposit' OR (borrower_micros > 0 AND lender_micros = 0 AND fees_micros = 0)),
    CHECK (kind <> 'payout' OR (lender_micros < 0 AND borrower_micros = 0 AND fees_micros = 0)),
    CHECK (kind <> 'credit'
        OR (borrower_micros > 0 AND lender_micros <= 0 AND fees_micros <= 0 AND outside_micros = 0))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_settlement_of_a_lease ON entries (lease) WHERE kind = 'lease';
CREATE UNIQUE INDEX one_entry_of_a_reference ON entries (kind, reference, currency) WHERE reference IS NOT NULL;
CREATE INDEX credits_of_a_lease ON entries (lease) WHERE kind = 'credit';
CREATE INDEX entries_of_a_borrower ON entries (borrower, at_us, id);
CREATE INDEX entries_of_a_lender ON entries (lender, at_us, id);

INSERT INTO entries (id, at_us, kind, borrower, lender, lease, currency, borrower_micros, lender_micros, fees_micros,
    outside_micros)
SELECT g.id, l.ended_at_us, 'lease', g.borrower, g.lender, g.lease,
-- @sqlite
    json_extract(l.contract, '$.terms.price.currency'),
-- @postgres
    CAST(l.contract AS json) #>> '{terms,price,currency}',
-- @both
    -g.charge_micros, g.payment_micros, g.fee_micros, 0
FROM ledger g JOIN leases l ON l.id = g.lease;
DROP TABLE ledger;

-- @sqlite
CREATE TRIGGER entries_stay_as_written BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- @postgres
CREATE TRIGGER entries_stay BEFORE UPDATE OR DELETE ON entries
FOR EACH ROW EXECUTE FUNCTION append_only();
-- @both

-- How an account stands in a currency: the sum of its entries' legs, and for a borrower the worst case of all its leases
-- that run. A limit, where one is set, bounds what is held beyond the balance.
CREATE TABLE balances (
    account BLOB NOT NULL REFERENCES accounts (id),
    currency TEXT NOT NULL CHECK (length(currency) = 3),
    balance_micros INTEGER NOT NULL DEFAULT 0,
    held_micros INTEGER NOT NULL DEFAULT 0 CHECK (held_micros >= 0),
    limit_micros INTEGER CHECK (limit_micros >= 0),
    PRIMARY KEY (account, currency)
) STRICT, WITHOUT ROWID;

INSERT INTO balances (account, currency, balance_micros)
SELECT borrower, currency, CAST(sum(borrower_micros) AS BIGINT) FROM entries GROUP BY borrower, currency;
INSERT INTO balances (account, currency, balance_micros)
SELECT lender, currency, CAST(sum(lender_micros) AS BIGINT) FROM entries GROUP BY lender, currency;
