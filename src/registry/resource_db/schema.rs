//! The schema, as migrations: each makes it from the one before, and none is changed once it was released.
//!
//! A migration is one text for every database, `migrations/NNNN_what.sql`, added to [`MIGRATIONS`]. It is written as
//! SQLite has it: tables are `STRICT, WITHOUT ROWID` with `INTEGER`, `TEXT` and `BLOB` columns. PostgreSQL reads the
//! same with `BIGINT` for `INTEGER` and `BYTEA` for `BLOB`, and without `STRICT, WITHOUT ROWID`. Lines for one database
//! alone, such as triggers, stand between markers:
//!
//! ```sql
//! -- @sqlite
//! CREATE TRIGGER … BEGIN SELECT RAISE(ABORT, '…'); END;
//! -- @postgres
//! CREATE TRIGGER … EXECUTE FUNCTION append_only();
//! -- @both
//! ```
//!
//! SQLite cannot add a constraint to a table, or change one; `ADD COLUMN` it can. A table that refers to a later one, or
//! to itself by way of others, gets that constraint in PostgreSQL after both are made.

/// The number of a schema is how many of these it has.
pub(super) const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_trust.sql"),
    include_str!("migrations/0003_money.sql"),
    include_str!("migrations/0004_registries.sql"),
    include_str!("migrations/0005_lists.sql"),
    include_str!("migrations/0006_acts.sql"),
    include_str!("migrations/0007_refusals.sql"),
    include_str!("migrations/0008_receipts.sql"),
];

/// The migration as SQLite takes it.
pub(super) fn for_sqlite(migration: &str) -> String {
    lines_of(migration, "sqlite")
}

/// The migration as PostgreSQL takes it.
pub(super) fn for_postgres(migration: &str) -> String {
    let differences =
        [(") STRICT, WITHOUT ROWID;", ");"), (") STRICT;", ");"), ("INTEGER", "BIGINT"), ("BLOB", "BYTEA")];
    let text = lines_of(migration, "postgres");
    differences.iter().fold(text, |text, (sqlite, postgres)| text.replace(sqlite, postgres))
}

/// The lines that are for all, and those for `database` alone.
fn lines_of(migration: &str, database: &str) -> String {
    let mut wanted = true;
    let mut lines = String::with_capacity(migration.len());
    for line in migration.lines() {
        match line.strip_prefix("-- @") {
            Some(marker) => wanted = [database, "both"].contains(&marker),
            None if wanted => lines.extend([line, "\n"]),
            None => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_gets_what_is_for_all_and_its_own() {
        let text = "1\n-- @sqlite\n2\n-- @postgres\n3\n-- @both\n4\n";
        assert_eq!(for_sqlite(text), "1\n2\n4\n");
        assert_eq!(for_postgres(text), "1\n3\n4\n");
    }

    #[test]
    fn postgresql_has_other_names_for_the_same_columns() {
        let text = "CREATE TABLE t (\n    id BLOB PRIMARY KEY,\n    n INTEGER\n) STRICT, WITHOUT ROWID;\n";
        assert_eq!(for_postgres(text), "CREATE TABLE t (\n    id BYTEA PRIMARY KEY,\n    n BIGINT\n);\n");
    }
}
