//! The files of /proc and /sys, below any root.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::InventoryError;

pub(super) struct Files<'a> {
    root: &'a Path,
}

impl<'a> Files<'a> {
    pub(super) fn under(root: &'a Path) -> Self {
        Self { root }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(super) fn text(&self, path: &str) -> Result<String, InventoryError> {
        let path = self.path(path);
        fs::read_to_string(&path).map_err(|source| InventoryError::Read { path, source })
    }

    /// A file's text without the line's end, where the kernel has such a file.
    pub(super) fn word(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.word(path)?.parse().ok()
    }

    /// Numbers such as `0-3,5`.
    pub(super) fn list(&self, path: &str) -> Result<BTreeSet<u32>, InventoryError> {
        let text = self.text(path)?;
        cpu_list(&text)
            .ok_or_else(|| InventoryError::CpuList { path: self.path(path), text: text.trim().to_owned() })
    }

    /// The numbers of the entries of a folder that are named `prefix` and a number, ascending.
    pub(super) fn numbered(&self, folder: &str, prefix: &str) -> BTreeSet<u32> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return BTreeSet::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect()
    }

    /// The names of what is in a folder, ascending.
    pub(super) fn names(&self, folder: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return BTreeSet::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// No kernel has so many CPUs in a row (NR_CPUS).
const NUMBERS_MAX: u32 = 8192;

/// Numbers such as `0-3,5`.
pub fn cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let numbers: Option<Vec<_>> = ranges.map(range).collect();
    Some(numbers?.into_iter().flatten().collect())
}

fn range(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    Some(first..=last.min(first.saturating_add(NUMBERS_MAX)))
}

/// The value in the first line `key : value`.
pub(super) fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_none_is_told() {
        assert_eq!(cpu_list("0-2,5\n"), Some([0, 1, 2, 5].into()));
        assert_eq!(cpu_list("\n"), Some([].into()));
        assert_eq!(cpu_list("0-x"), None);
    }
}
