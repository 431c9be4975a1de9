-- Receipts of the latest leases of each partition. `meter` is what was counted since the last segment; NULL: closed.
CREATE TABLE receipts (
    lease TEXT PRIMARY KEY,
    partition TEXT NOT NULL,
    meter TEXT
) STRICT;
CREATE INDEX receipts_of_a_partition ON receipts (partition);

-- Each as it was signed.
CREATE TABLE segments (
    lease TEXT NOT NULL REFERENCES receipts (lease) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    text TEXT NOT NULL,
    signature TEXT NOT NULL,
    -- Whether the registry has it.
    told INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (lease, number)
) STRICT;
CREATE INDEX segments_to_tell ON segments (told) WHERE NOT told;

-- What the registry was not told yet.
CREATE TABLE violations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    partition TEXT NOT NULL,
    lease TEXT,
    violation TEXT NOT NULL
) STRICT;
