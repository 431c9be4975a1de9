//! Databases that earlier programs made are brought up to date with all that is in them; those of later ones are left.

use super::*;
use crate::registry::resource_db::schema::MIGRATIONS;

/// What a registry of the first schema wrote: a lender and its host with two partitions, a borrower with a lease that was
/// settled and one that runs. Numbers are names, `{n}` as 16 bytes; the borrower's token is 32 times 2.
const FIRST_ROWS: &str = r#"
INSERT INTO accounts VALUES ({1}, 'lender', 'lena', 1767268800000000), ({2}, 'borrower', 'bob', 1767268800000000);
INSERT INTO hosts (id, lender, address, revision, created_at_us) VALUES ({3}, {1}, 'http://host:1', 4, 1767268800000000);
INSERT INTO tokens (digest, account, created_at_us) VALUES ({token}, {2}, 1767268800000000);
INSERT INTO partitions (host, id, terms, version, epoch, state) VALUES
    ({3}, {4}, '{terms}', 1, 0, 'free'), ({3}, {5}, '{terms}', 1, 0, 'free');
INSERT INTO leases (id, host, partition, borrower, lender, epoch, contract, started_at_us, expires_at_us, state,
    ended_at_us, end_reason) VALUES
    ({6}, {3}, {4}, {2}, {1}, 1, '{contract}', 1767268800000000, 1767276000000000, 'settled', 1767272400000000, 'returned'),
    ({7}, {3}, {5}, {2}, {1}, 1, '{contract}', 1767268800000000, 1767276000000000, 'active', NULL, NULL);
UPDATE partitions SET epoch = 1, state = 'awaiting_clean', lease = {6} WHERE id = {4};
UPDATE partitions SET epoch = 1, state = 'lent', lease = {7} WHERE id = {5};
INSERT INTO lease_requests VALUES ({2}, 'once', {token}, {7});
INSERT INTO ledger VALUES ({8}, {6}, {2}, {1}, 1000000, 100000, 900000);
INSERT INTO issuer (one, id, secret) VALUES (1, {9}, '{secret}');
"#;
const TERMS: &str = r#"{"allocation":{"cpus":1,"memory_mib":256,"disk_mib":64},"price":{"per_hour_micros":1000000,
    "currency":"EUR"},"os_images":["debian-micro"],"cpu_model":"a CPU"}"#;

/// The first schema's rows, as this database writes bytes.
fn first_rows(database: &Database) -> String {
    let contract = format!(r#"{{"terms":{TERMS},"rounding":"begun_second","fee_rate":100000}}"#);
    let secret = crate::domain::lending_key::IssuerKeyPair::from_seed([7; 32]).secret();
    let mut rows = FIRST_ROWS.replace("{token}", &database.bytes(&[2; 32]));
    for name in 1..=9 {
        rows = rows.replace(&format!("{{{name}}}"), &database.bytes(Uuid::from_u128(name).as_bytes()));
    }
    rows.replace("{contract}", &contract).replace("{terms}", TERMS).replace("{secret}", secret.reveal())
}

#[tokio::test]
async fn a_database_of_each_earlier_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    for schema in 1..=MIGRATIONS.len() {
        let database = Database::new().await;
        database.make(&MIGRATIONS[..1], 1).await;
        database.execute(&first_rows(&database)).await.unwrap();
        database.make(&MIGRATIONS[1..schema], schema).await;
        let clock = Arc::new(Clock::held_at("2026-01-01T13:30:00Z".parse().unwrap()));
        let (db, _) = open(database.location(), &clock).await;

        let access = db.access([2; 32], clock.now()).await.unwrap().expect("the token is still good");
        assert_eq!(
            access.principal,
            Principal::Borrower(BorrowerId(Uuid::from_u128(2))),
            "from schema {schema}"
        );
        let borrower = BorrowerId(Uuid::from_u128(2));
        let settled = db.lease(borrower, LeaseId(Uuid::from_u128(6))).await.unwrap().unwrap();
        assert_eq!(settled.end.unwrap().charge, Micros(1_000_000));
        let ended =
            db.end_lease(LeaseId(Uuid::from_u128(7)), borrower, HostWord::Heard, clock.now()).await.unwrap();
        assert_eq!(ended.end.unwrap().charge, Micros(1_500_000));
        let entries = db.entries(Account::Borrower(borrower), all()).await.unwrap();
        let charged: Vec<_> = entries.iter().map(|entry| entry.entry.legs.borrower).collect();
        assert_eq!(charged, [Micros(-1_500_000), Micros(-1_000_000)], "newest first");
        let fresh = (crate::domain::id::IssuerId(Uuid::max()), crate::api::secret::Secret::new("unused"));
        assert_eq!(db.issuer(fresh).await.unwrap(), crate::domain::id::IssuerId(Uuid::from_u128(9)));
        let register = db.host_register(HostId(Uuid::from_u128(3))).await.unwrap();
        assert_eq!(register.partitions.len(), 2);
    }
}

#[tokio::test]
async fn a_database_of_a_later_schema_is_left_as_it_is() {
    let database = Database::new().await;
    database.make(&MIGRATIONS, MIGRATIONS.len() + 1).await;
    let clock = Arc::new(Clock::system());
    let Err(error) = ResourceDb::open(database.location(), clock, Box::new(|_| ())).await else {
        panic!("it was opened");
    };
    let said = crate::api::http::chain(&error);
    assert!(
        said.contains(&format!("has schema {}", MIGRATIONS.len() + 1)) && said.contains("newer program"),
        "{said}"
    );
}
