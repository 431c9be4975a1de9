//! AES-256-XTS (IEEE 1619) over sectors of 512 bytes, each by its number on the disk.

use std::fmt;

use aes::{
    Aes256,
    cipher::{
        Array, KeyInit,
        consts::{U32, U64},
    },
};
use sublet_vmm_protocol::DiskKey;
use xts_mode::{Xts128, get_tweak_default};

use crate::block::SECTOR_SIZE;

pub struct Cipher(Xts128<Aes256>);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(…)")
    }
}

impl Cipher {
    pub fn new(key: &DiskKey) -> Self {
        let (blocks, tweaks) = Array::<u8, U64>(*key.bytes()).split::<U32>();
        Self(Xts128::new(Aes256::new(&blocks), Aes256::new(&tweaks)))
    }

    /// Encrypts whole sectors, the first of which stands at byte `offset` of the disk.
    pub fn encrypt(&self, sectors: &mut [u8], offset: u64) {
        let first = u128::from(offset / SECTOR_SIZE);
        self.0.encrypt_area(sectors, SECTOR_SIZE as usize, first, get_tweak_default);
    }

    pub fn decrypt(&self, sectors: &mut [u8], offset: u64) {
        let first = u128::from(offset / SECTOR_SIZE);
        self.0.decrypt_area(sectors, SECTOR_SIZE as usize, first, get_tweak_default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the digits of the standard's appendix.
    fn bytes<const N: usize>(digits: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
    }

    /// IEEE 1619-2007, appendix B, vector 10: AES-256, a data unit of 512 bytes with number 255; its first and last 32
    /// bytes. The plain text is all bytes in order, twice.
    #[test]
    fn what_the_standard_says_a_sector_becomes_it_becomes() {
        let [first, second] = [
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592",
        ];
        let key = DiskKey::new(bytes(&[first, second].concat()));
        let mut sector: [u8; 512] = std::array::from_fn(|at| at as u8);
        let cipher = Cipher::new(&key);
        cipher.encrypt(&mut sector, 255 * SECTOR_SIZE);
        assert_eq!(
            sector[..32],
            bytes::<32>("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b")
        );
        assert_eq!(
            sector[480..],
            bytes::<32>("773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151")
        );
        cipher.decrypt(&mut sector, 255 * SECTOR_SIZE);
        assert!(sector.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    }

    #[test]
    fn the_same_bytes_are_others_in_another_sector_and_with_another_key() {
        let cipher = Cipher::new(&DiskKey::new([1; 64]));
        let mut sectors = [7; 1024];
        cipher.encrypt(&mut sectors, 4096);
        assert_ne!(sectors[..512], sectors[512..]);
        let mut second = [7; 512];
        cipher.encrypt(&mut second, 4608);
        assert_eq!(sectors[512..], second);
        let mut other = [7; 512];
        Cipher::new(&DiskKey::new([2; 64])).encrypt(&mut other, 4608);
        assert_ne!(other, second);
    }
}
