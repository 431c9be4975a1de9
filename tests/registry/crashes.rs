//! Laws 1, 6 and 7 whatever crashes: a registry under load is killed again and again, and afterwards its books say what it
//! had said to those who asked. `SUBLET_SEED` repeats a run's choices, as far as the machine's own timing lets it, and
//! `SUBLET_KILLS=1000` has it killed so often.

mod books;
mod money;
mod offers;
mod parties;
#[cfg(feature = "postgres-tests")]
mod two;

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    process,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sublet::registry::crash_point::CrashPoint;

use crate::server::{Database, Server};
use parties::Town;

/// Kills at random moments, where nobody says how many.
const KILLS: u32 = 200;
/// A registry dies after at most so many answers, and at most so many microseconds: in the middle of something.
const ANSWERS_MAX: u64 = 25;
const THEN_MAX_US: u64 = 10_000;
/// A place is passed at most so many times before the registry dies there.
const PASSES_MAX: u32 = 5;

fn seeded() -> StdRng {
    let seed = env::var("SUBLET_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SUBLET_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn kills() -> u32 {
    env::var("SUBLET_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// An address of this process's own: nobody takes its port while the registry is down, as outgoing connections are
/// from 127.0.0.1.
fn own_address(test: u8) -> SocketAddr {
    let [_, _, high, low] = process::id().to_be_bytes();
    (Ipv4Addr::new(127, 100 + test, high, low.max(1)), 7070).into()
}

/// Waits for some moment at which the registries are in the middle of something.
async fn busy(town: &Town, random: &mut StdRng) {
    town.hears(random.random_range(1..=ANSWERS_MAX)).await;
    tokio::time::sleep(Duration::from_micros(random.random_range(0..THEN_MAX_US))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_at_random_moments() {
    let (mut random, listen) = (seeded(), own_address(0));
    let mut server = Server::start_at(listen, Database::new(), None);
    let town = Town::settle(std::slice::from_ref(&server), &mut random).await;
    for _ in 0..kills() {
        busy(&town, &mut random).await;
        server = Server::start_at(listen, server.kill(), None);
    }
    books::compare(&server, town.rests().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash_at_each_step_of_a_transaction() {
    let (mut random, listen) = (seeded(), own_address(1));
    let mut server = Server::start_at(listen, Database::new(), None);
    let town = Town::settle(std::slice::from_ref(&server), &mut random).await;
    for place in CrashPoint::ALL {
        let pass = random.random_range(1..=PASSES_MAX);
        let doomed = Server::start_at(listen, server.kill(), Some(&format!("{place}:{pass}")));
        let database = doomed.database();
        assert!(doomed.dies().await, "it ended by itself before it came to {place}");
        server = Server::start_at(listen, database, None);
        town.hears(1).await;
    }
    books::compare(&server, town.rests().await).await;
}
