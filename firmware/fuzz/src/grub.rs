//! A `grub.cfg`, which finds itself wherever it looks for a file.

use sublet_firmware::config::grub::{Disks, starts};

use crate::Seed;

const STARTS_MAX: usize = 16;
const OPTIONS_MAX: usize = 64 << 10;

struct Everywhere<'a>(&'a str);

impl Disks for Everywhere<'_> {
    fn name(&self, volume: usize) -> String {
        format!("hd0,gpt{volume}")
    }

    fn by_name(&self, name: &str) -> Option<usize> {
        (0..2).find(|volume| self.name(*volume) == name)
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        Some(uuid.len() % 3).filter(|volume| *volume < 2)
    }

    fn by_label(&self, label: &str) -> Option<usize> {
        self.by_uuid(label)
    }

    fn exists(&self, _volume: usize, path: &str) -> bool {
        path.len().is_multiple_of(2)
    }

    fn read(&self, _volume: usize, path: &str) -> Option<String> {
        (!path.is_empty()).then(|| self.0.to_string())
    }

    fn volumes(&self) -> usize {
        2
    }
}

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (starts, _) = starts(&Everywhere(&text), 0, "/boot/grub/grub.cfg", &text);
    assert!(starts.len() <= STARTS_MAX, "{} entries", starts.len());
    assert!(starts.iter().all(|start| start.options.len() <= OPTIONS_MAX), "options without bound");
}

pub fn seeds() -> Vec<Seed> {
    vec![
        ("debian_12", include_bytes!("../../tests/fixtures/grub-debian-12.cfg").to_vec()),
        ("debian_13", include_bytes!("../../tests/fixtures/grub-debian-13.cfg").to_vec()),
        ("stub", b"search.fs_uuid 1234 root hd0,gpt1\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n".to_vec()),
        ("environment", b"# GRUB Environment Block\nsaved_entry=1>0\nload_env\nset default=${saved_entry}\n".to_vec()),
    ]
}
