-- For whom a partition is, as JSON; and whether what it holds was taken from the reserve.
ALTER TABLE partitions ADD COLUMN kind TEXT NOT NULL DEFAULT '"standing"';
ALTER TABLE partitions ADD COLUMN created INTEGER NOT NULL DEFAULT 1 CHECK (created IN (0, 1));

-- The shape in which the host has carved it by itself [0033].
ALTER TABLE partitions ADD COLUMN shape TEXT;

-- The row of the partition that cannot be lent, which has neither flag nor key [0023]: what the host has, and what of it is
-- the owner's now.
CREATE TABLE reserve (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    host_cpus INTEGER NOT NULL,
    host_memory_mib INTEGER NOT NULL,
    host_disk_mib INTEGER NOT NULL,
    -- Beyond a guest's memory, for its VMM.
    overhead_mib INTEGER NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_mib INTEGER NOT NULL
) STRICT;

-- What was taken from it. Partitions that have shares can have a CPU in common.
CREATE VIEW created AS SELECT
    (SELECT COUNT(DISTINCT cpu.value) FROM partitions, json_each(partitions.host_cpus) AS cpu WHERE created) AS cpus,
    (SELECT COALESCE(SUM(memory_mib), 0) FROM partitions WHERE created) AS memory_mib,
    (SELECT COUNT(*) FROM partitions WHERE created) AS vmms,
    (SELECT COALESCE(SUM(disk_mib), 0) FROM partitions WHERE created) AS disk_mib;

-- It is rewritten in the step in which a partition is created, changed or given back [0052, fig. 5 S7].
CREATE TRIGGER reserve_after_insert AFTER INSERT ON partitions BEGIN
    UPDATE reserve SET cpus = host_cpus - created.cpus,
        memory_mib = host_memory_mib - created.memory_mib - created.vmms * overhead_mib,
        disk_mib = host_disk_mib - created.disk_mib FROM created;
END;
CREATE TRIGGER reserve_after_update AFTER UPDATE OF created, host_cpus, memory_mib, disk_mib ON partitions BEGIN
    UPDATE reserve SET cpus = host_cpus - created.cpus,
        memory_mib = host_memory_mib - created.memory_mib - created.vmms * overhead_mib,
        disk_mib = host_disk_mib - created.disk_mib FROM created;
END;
CREATE TRIGGER reserve_after_delete AFTER DELETE ON partitions BEGIN
    UPDATE reserve SET cpus = host_cpus - created.cpus,
        memory_mib = host_memory_mib - created.memory_mib - created.vmms * overhead_mib,
        disk_mib = host_disk_mib - created.disk_mib FROM created;
END;
