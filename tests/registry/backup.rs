//! Copies of a database's file, and a disk that is full.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use sublet::{api::problem::Code, client::RegistryClient, domain::id::LeaseId};

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

fn refusal(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

fn backup(database: &Database, to: &Path) -> Output {
    database.run(&["backup", to.to_str().unwrap()])
}

fn restore(database: &Database, from: &Path) -> Output {
    database.run(&["restore", from.to_str().unwrap()])
}

async fn leases(borrower: &RegistryClient) -> Vec<LeaseId> {
    borrower.leases().await.unwrap().leases.into_iter().map(|lease| lease.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_under_load_is_a_whole_database_with_all_that_was_acknowledged_before() {
    let server = Server::start_on(Database::in_a_file());
    let bob = server.database().token("borrower", "bob");
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let first = lease(&server.client(bob.clone()), &wish(&host.offer(terms(1, 0)).await, 600)).await.unwrap();
    let client = server.client(bob.clone());
    let load = tokio::spawn(async move {
        for price in 0.. {
            let offer = host.offer(terms(1, price)).await;
            lease(&client, &wish(&offer, 600)).await.unwrap();
        }
    });
    let client = server.client(bob.clone());
    eventually("load", async || (leases(&client).await.len() > 5).then_some(())).await;
    let before = leases(&client).await;
    let copy = server.database().beside("copy.db");
    let database = server.database();
    let taken = tokio::task::spawn_blocking({
        let (database, copy) = (database.clone(), copy.clone());
        move || backup(&database, &copy)
    });
    succeeds(&taken.await.unwrap());
    load.abort();
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it holds the signing key");

    let restored = Database::in_a_file();
    succeeds(&restore(&restored, &copy));
    let server = Server::start_on(restored);
    let client = server.client(bob);
    let after = leases(&client).await;
    assert!(before.iter().all(|lease| after.contains(lease)), "{before:?} {after:?}");
    end(&client, &first).await.expect("the signing key is the same");
}

#[test]
fn neither_a_copy_nor_a_database_is_overwritten() {
    let database = Database::in_a_file();
    database.token("lender", "alice");
    let (copy, other) = (database.beside("copy.db"), database.beside("other"));
    succeeds(&backup(&database, &copy));
    let kept = std::fs::read(&copy).unwrap();
    database.token("lender", "carol");
    assert!(refusal(&backup(&database, &copy)).contains("not overwritten"));
    assert_eq!(std::fs::read(&copy).unwrap(), kept);
    let kept = std::fs::read(database.path()).unwrap();
    assert!(refusal(&restore(&database, &copy)).contains("not overwritten"));
    assert_eq!(std::fs::read(database.path()).unwrap(), kept);
    std::fs::write(&other, "no database").unwrap();
    let restored = Database::in_a_file();
    assert!(refusal(&restore(&restored, &other)).contains("other"));
    assert!(!restored.path().exists());
}

#[test]
fn what_is_no_whole_backup_is_not_restored() {
    let database = Database::in_a_file();
    database.token("lender", "alice");
    let copy = database.beside("copy.db");
    succeeds(&backup(&database, &copy));
    let whole = std::fs::read(&copy).unwrap();
    let restored = Database::in_a_file();
    std::fs::write(&copy, &whole[..whole.len() / 2]).unwrap();
    refusal(&restore(&restored, &copy));
    assert!(!restored.path().exists());
}

#[test]
fn a_server_is_copied_by_its_own_programs() {
    let directory = Database::in_a_file();
    let mut program = Command::new(env!("CARGO_BIN_EXE_sublet-registry"));
    program
        .args(["--database", "postgres://sublet@192.0.2.1/sublet", "backup"])
        .arg(directory.beside("copy"));
    assert!(refusal(&program.output().unwrap()).contains("pg_dump"));
}

/// A registry on a disk of its own with little room: a file system in memory, in a mount namespace.
#[tokio::test]
async fn a_full_disk_refuses_new_leases_and_loses_none() {
    let seeded = Database::in_a_file();
    let bob = seeded.token("borrower", "bob");
    let server = Server::start_on(seeded.clone());
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let mut offers = Vec::new();
    for price in 0..400 {
        offers.push(host.offer(terms(1, price)).await);
    }
    assert!(server.terminate().await);
    // The file alone may be behind its log.
    let whole = seeded.beside("whole.db");
    succeeds(&backup(&seeded, &whole));

    let disk = seeded.beside("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = "mount -t tmpfs -o size=8m disk \"$1\" && cp -p \"$2\" \"$1/registry.db\" \
                 && dd if=/dev/zero of=\"$1/filler\" bs=64k count=112 2>/dev/null && shift 2 && exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_sublet-registry");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]).arg(&disk).arg(&whole);
    command.arg(program).arg("--database").arg(disk.join("registry.db"));
    let server = Server::start_by(command, seeded.clone());
    let host = server.client(host.enrolled.host_token.clone());
    host.heartbeat(offers[0].host, &<_>::default()).await.unwrap();
    let client = server.client(bob);
    let mut made = Vec::new();
    let refused = loop {
        let offer = &offers[made.len()];
        match lease(&client, &wish(offer, 600)).await {
            Ok(granted) => made.push(granted.lease.id),
            refused => break refused,
        }
    };
    assert_refused(refused, Code::StorageFull);
    let mut known = leases(&client).await;
    known.reverse();
    assert_eq!(known, made, "all that were acknowledged, and no more");

    std::fs::remove_file(server.root().join(disk.strip_prefix("/").unwrap()).join("filler")).unwrap();
    let offer = &offers[made.len()];
    let granted =
        eventually("there is room again", async || lease(&client, &wish(offer, 600)).await.ok()).await;
    end(&client, &granted).await.unwrap();
}
