//! A Merkle tree as RFC 6962 (2.1) has it, over SHA-256: one root for any number of leaves, in the memory of a few.

use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// Leaves and nodes are hashed apart, so that none is ever taken for the other.
const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// The hash of a leaf that holds these bytes.
pub fn leaf(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::new().chain_update(LEAF).chain_update(bytes).finalize().into())
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let hash = Sha256::new().chain_update(NODE).chain_update(left.bytes()).chain_update(right.bytes());
    Digest::new(hash.finalize().into())
}

/// A tree that grows by a leaf at a time. It keeps a root for each full subtree: as many as the number of leaves has ones
/// in binary.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// From the largest subtree to the smallest.
    full: Vec<Digest>,
    leaves: u64,
}

impl Tree {
    pub fn push(&mut self, leaf: Digest) {
        let mut root = leaf;
        // Each subtree of the size that is complete now becomes the left half of one twice as large.
        for _ in 0..self.leaves.trailing_ones() {
            let left = self.full.pop();
            root = left.map_or(root, |left| node(&left, &root));
        }
        self.full.push(root);
        self.leaves += 1;
    }

    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The root over all leaves; of none, the hash of nothing.
    pub fn root(&self) -> Digest {
        let smallest_first = self.full.iter().rev().copied();
        smallest_first.reduce(|right, left| node(&left, &right)).unwrap_or_else(|| Digest::of(b""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The inputs of Certificate Transparency's own tests, and the roots over the first so many of them.
    const INPUTS: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    /// As RFC 6962 defines it, by recursion.
    fn defined(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [only] => *only,
            _ => {
                let half = leaves.len().next_power_of_two() / 2;
                node(&defined(&leaves[..half]), &defined(&leaves[half..]))
            }
        }
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let mut tree = Tree::default();
        for (count, root) in ROOTS.iter().enumerate() {
            assert_eq!(tree.root().hex(), *root, "of {count} leaves");
            if let Some(input) = INPUTS.get(count) {
                tree.push(leaf(&hex::decode(input).unwrap()));
            }
        }
    }

    proptest! {
        #[test]
        fn a_tree_that_grew_is_the_tree_as_defined(leaves in proptest::collection::vec(any::<[u8; 32]>(), 0..200)) {
            let leaves: Vec<Digest> = leaves.into_iter().map(Digest::new).collect();
            let mut tree = Tree::default();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), defined(&leaves));
            prop_assert_eq!(tree.leaves(), leaves.len() as u64);
        }
    }
}
