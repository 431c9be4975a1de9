//! The program itself: its arguments, its end, its refusals.

use std::os::unix::fs::PermissionsExt as _;

use crate::{
    market::Host,
    server::{Database, Server},
};

fn stderr_of_failure(output: &std::process::Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn sigterm_ends_it_with_success_though_a_host_is_waiting() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let reply = host.beat(<_>::default()).await;
    let wait = sublet::api::registry::Heartbeat {
        known_revision: Some(reply.revision),
        wait_ms: 10_000,
        ..<_>::default()
    };
    let waiting = tokio::spawn(async move { host.beat(wait).await.revision });
    assert!(server.terminate().await);
    // Answered if it had begun to wait; refused if it came too late.
    assert!(waiting.await.map_or(true, |revision| revision == reply.revision));
}

#[test]
fn a_token_is_one_line_on_standard_output_and_another_each_time() {
    let database = Database::in_a_file();
    let output = database.run(&["token", "make", "borrower", "--name", "bob"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    assert_ne!(database.token("borrower", "bob"), database.token("borrower", "bob"));
    let mode = database.path().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the signing key");
}

#[test]
fn a_name_that_is_none_is_refused() {
    let output = Database::new().run(&["token", "make", "lender", "--name", "no name"]);
    assert!(stderr_of_failure(&output).contains("\"no name\""));
}

#[test]
fn plain_http_on_other_than_loopback_is_refused_and_the_refusal_says_what_to_do() {
    let output = Database::new().run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(stderr_of_failure(&output).contains("--insecure-http"));
}

#[test]
fn a_second_registry_on_one_file_is_refused() {
    let server = Server::start_on(Database::in_a_file());
    let output = server.database().run(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(stderr_of_failure(&output).contains("another registry serves"));
}

#[test]
fn a_database_that_others_can_read_is_refused() {
    let database = Database::in_a_file();
    database.token("lender", "alice");
    std::fs::set_permissions(database.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let output = database.run(&["token", "make", "lender", "--name", "alice"]);
    assert!(stderr_of_failure(&output).contains("chmod 600"));
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Database::new().run(&["serve", "--listen", &address]);
    assert!(stderr_of_failure(&output).contains(&address));
}
