-- One row a partition [0019-0023]. `state` is the lending flag (43) with what belongs to it; where the patent has
-- the lending key (44) stand the lease and its epoch. Ids are never used twice, so neither is a (partition, epoch).
CREATE TABLE partitions (
    id TEXT PRIMARY KEY,
    request_key TEXT UNIQUE,
    request_digest BLOB,
    cpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_mib INTEGER NOT NULL,
    host_cpus TEXT NOT NULL,
    cpu_model TEXT NOT NULL,
    os_images TEXT NOT NULL,
    price_per_hour_micros INTEGER NOT NULL,
    currency TEXT NOT NULL,
    network TEXT NOT NULL,
    qualities TEXT NOT NULL,
    lending TEXT NOT NULL,
    terms_version INTEGER,
    least_epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    lease TEXT AS (CASE WHEN json_valid(state) THEN json_extract(state, '$.lease.lease') END),
    effects TEXT NOT NULL,
    machine TEXT NOT NULL
) STRICT;
-- One row has one lease, and a lease is of one row (law 1).
CREATE UNIQUE INDEX one_partition_a_lease ON partitions (lease) WHERE lease IS NOT NULL;

-- Jobs of the leases that are open. A job is acknowledged once it stands here (law 6).
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    partition TEXT NOT NULL REFERENCES partitions (id) ON DELETE CASCADE,
    lease TEXT NOT NULL,
    request_key TEXT,
    request_digest BLOB,
    image TEXT NOT NULL,
    argv TEXT NOT NULL,
    -- A frame of the guest's protocol; empty once the job has ended.
    spec BLOB NOT NULL,
    -- queued, sent (the guest may know of it), running (the guest said so), ended
    state TEXT NOT NULL CHECK (state IN ('queued', 'sent', 'running', 'ended')),
    end TEXT CHECK ((end IS NULL) = (state <> 'ended')),
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    submitted_at TEXT NOT NULL,
    ended_at TEXT,
    -- Output beyond what the host keeps, in bytes.
    stdout_dropped INTEGER NOT NULL DEFAULT 0,
    stderr_dropped INTEGER NOT NULL DEFAULT 0,
    UNIQUE (lease, request_key)
) STRICT;
CREATE INDEX jobs_of_a_partition ON jobs (partition, number);
-- A guest runs one job at a time.
CREATE UNIQUE INDEX one_job_at_a_time ON jobs (partition) WHERE state IN ('sent', 'running');

-- What the registry was not told yet.
CREATE TABLE reports (
    lease TEXT PRIMARY KEY,
    ended TEXT,
    cleaned INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Numbers that are given once.
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
-- Context ids from 2^16 on: far from those that people give by hand.
INSERT INTO counters VALUES ('guest_cid', 65536);
