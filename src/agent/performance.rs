//! How fast the host's cores are: measured once, kept as long as its processor is the same.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::{self, IdentityError};
use crate::inventory::{
    Inventory,
    rating::{self, Ratings},
    topology::{Core, CoreKind},
};

const FILE: &str = "performance.json";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    cpu_model: String,
    cores: Vec<StoredKind>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredKind {
    clock_khz: u64,
    threads: usize,
    rounds_per_second: u32,
}

impl Stored {
    fn of(cpu_model: String, ratings: &Ratings) -> Self {
        let cores = ratings.iter().map(|(kind, rounds)| StoredKind {
            clock_khz: kind.clock_khz,
            threads: kind.threads,
            rounds_per_second: *rounds,
        });
        Self { cpu_model, cores: cores.collect() }
    }

    fn ratings(&self) -> Ratings {
        let of = |stored: &StoredKind| {
            let kind = CoreKind { clock_khz: stored.clock_khz, threads: stored.threads };
            (kind, stored.rounds_per_second)
        };
        self.cores.iter().map(of).collect()
    }
}

/// As it was measured when the host was first started with this processor, or else now, which takes a moment.
pub(super) async fn known_or_measured(
    inventory: &Inventory,
    state_directory: &Path,
) -> Result<Ratings, IdentityError> {
    let path = state_directory.join(FILE);
    let known = identity::read::<Stored>(&path)?.filter(|stored| stored.cpu_model == inventory.cpu_model);
    if let Some(ratings) = known.map(|stored| stored.ratings())
        && inventory.topology.cores.iter().map(Core::kind).all(|kind| ratings.contains_key(&kind))
    {
        return Ok(ratings);
    }
    let topology = inventory.topology.clone();
    // Where its thread fails, no performance is stated.
    let ratings = tokio::task::spawn_blocking(move || rating::measure(&topology)).await.unwrap_or_default();
    tracing::info!(?ratings, "measured how fast the cores are, in rounds a second");
    identity::write(&path, &Stored::of(inventory.cpu_model.clone(), &ratings))?;
    Ok(ratings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_processor_is_measured_once_and_another_one_anew() {
        let directory = tempfile::tempdir().unwrap();
        let inventory = Inventory::read(Path::new("/")).unwrap();
        let kind = inventory.topology.cores[0].kind();
        let all = inventory.topology.cores.iter().map(|core| (core.kind(), 7)).collect();
        let path = directory.path().join(FILE);
        identity::write(&path, &Stored::of(inventory.cpu_model.clone(), &all)).unwrap();
        assert_eq!(known_or_measured(&inventory, directory.path()).await.unwrap()[&kind], 7);
        let other = Inventory { cpu_model: "another".to_owned(), ..inventory };
        let measured = known_or_measured(&other, directory.path()).await.unwrap();
        assert_ne!(measured[&kind], 7);
        assert_eq!(known_or_measured(&other, directory.path()).await.unwrap(), measured);
    }
}
