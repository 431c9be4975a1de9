//! Two registries at one PostgreSQL: either dies at any moment, and so does the server.

use rand::RngExt as _;

use super::{
    books, busy, kills, own_address,
    parties::{self, Town},
    seeded,
};
use crate::{
    postgres::PostgresServer,
    server::{Database, Server},
};

/// Crashes of the server.
const CRASHES: u32 = 6;

fn two(database: &Database, addresses: [u8; 2]) -> Vec<Server> {
    addresses.map(|test| Server::start_at(own_address(test), database.clone(), None)).into()
}

fn killed_and_started(server: Server) -> Server {
    let listen = server.address().strip_prefix("http://").unwrap().parse().unwrap();
    Server::start_at(listen, server.kill(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_of_either_of_two_registries_at_random_moments() {
    let mut random = seeded();
    let mut servers = two(&Database::new(), [2, 3]);
    let town = Town::settle(&servers, &mut random).await;
    for _ in 0..kills() {
        busy(&town, &mut random).await;
        let server = servers.swap_remove(random.random_range(0..servers.len()));
        servers.push(killed_and_started(server));
    }
    parties::serves(&servers[0]).await;
    books::compare(&servers[0], town.rests().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_crashes_of_postgresql_and_both_registries_go_on_by_themselves() {
    let mut random = seeded();
    let postgres = PostgresServer::start();
    let servers = two(&Database::at(postgres.url()), [4, 5]);
    let town = Town::settle(&servers, &mut random).await;
    town.bears_that_the_database_dies();
    for _ in 0..CRASHES {
        busy(&town, &mut random).await;
        postgres.crashes_and_comes_back();
    }
    town.hears(1).await;
    books::compare(&servers[1], town.rests().await).await;
}
