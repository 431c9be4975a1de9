//! Boot Loader Specification entries: type #1, a text file each (UAPI group, Boot Loader Specification), and the order
//! of a menu of them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::version;

/// What this processor is called in entries.
const ARCHITECTURE: &str = "x64";

/// What a menu is ordered by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rank {
    /// Name of the file.
    pub id: String,
    pub sort_key: String,
    pub machine_id: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoaderEntry {
    pub rank: Rank,
    pub title: String,
    /// The kernel's path; empty where it names none that is a Linux.
    pub linux: String,
    pub initrds: Vec<String>,
    pub options: String,
}

/// An entry; none where it is for another architecture or has no kernel.
#[must_use]
pub fn parse(id: &str, text: &str) -> Option<LoaderEntry> {
    let mut entry =
        LoaderEntry { rank: Rank { id: id.to_string(), ..Rank::default() }, ..LoaderEntry::default() };
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        match key {
            "title" => entry.title = value.to_string(),
            "version" => entry.rank.version = value.to_string(),
            "machine-id" => entry.rank.machine_id = value.to_string(),
            "sort-key" => entry.rank.sort_key = value.to_string(),
            "linux" => entry.linux = value.to_string(),
            "initrd" => entry.initrds.push(value.to_string()),
            "options" => append(&mut entry.options, value),
            "architecture" if !value.eq_ignore_ascii_case(ARCHITECTURE) => return None,
            _ => {}
        }
    }
    (!entry.linux.is_empty()).then_some(entry)
}

fn append(options: &mut String, more: &str) {
    if !options.is_empty() && !more.is_empty() {
        options.push(' ');
    }
    options.push_str(more);
}

/// The order of the menu, what is started first: what was not found bad, then by sort key, machine, newest version; what
/// has no sort key comes after what has one, newest name first.
#[must_use]
pub fn compare(one: &Rank, other: &Rank) -> Ordering {
    let by_key = || match (one.sort_key.is_empty(), other.sort_key.is_empty()) {
        (false, false) => {
            let same = one.sort_key.cmp(&other.sort_key).then_with(|| one.machine_id.cmp(&other.machine_id));
            same.then_with(|| version::compare(&other.version, &one.version))
        }
        (one, other) => one.cmp(&other),
    };
    let by_name = || version::compare(name(&other.id), name(&one.id)).then_with(|| other.id.cmp(&one.id));
    is_bad(&one.id).cmp(&is_bad(&other.id)).then_with(by_key).then_with(by_name)
}

/// The entry's name without how often it may still be tried: `name+3-1.conf`.
fn name(id: &str) -> &str {
    let stem = id.rsplit_once('.').map_or(id, |(stem, _)| stem);
    stem.rsplit_once('+').filter(|(_, tries)| is_tries(tries)).map_or(stem, |(name, _)| name)
}

fn is_tries(text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit());
    text.split('-').all(is_number)
}

/// Has no tries left.
fn is_bad(id: &str) -> bool {
    let stem = id.rsplit_once('.').map_or(id, |(stem, _)| stem);
    let tries = stem.rsplit_once('+').map(|(_, tries)| tries).filter(|tries| is_tries(tries));
    tries.is_some_and(|tries| {
        tries.split('-').next().is_some_and(|left| left.bytes().all(|digit| digit == b'0'))
    })
}

/// The pattern of entries that `loader.conf` wants started; none where it has no opinion that can be followed here.
#[must_use]
pub fn default_pattern(loader_conf: &str) -> Option<&str> {
    let lines = loader_conf.lines().map(str::trim);
    let value = |line: &'_ str| {
        line.strip_prefix("default").filter(|rest| rest.starts_with(char::is_whitespace)).map(str::len)
    };
    let mut found = lines.filter_map(|line| value(line).map(|length| line[line.len() - length..].trim()));
    found.next_back().filter(|pattern| !pattern.is_empty() && !pattern.starts_with('@'))
}

/// Whether an entry is meant by a pattern with `*` and `?`. The file's ending need not be there.
#[must_use]
pub fn is_meant(pattern: &str, id: &str) -> bool {
    let stem = id.rsplit_once('.').map_or(id, |(stem, _)| stem);
    [id, stem, name(id)].iter().any(|id| matches_glob(pattern.as_bytes(), id.as_bytes()))
}

fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut text_at, mut star) = (0, 0, None);
    while text_at < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, text_at));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[text_at] => {
                (at, text_at) = (at + 1, text_at + 1)
            }
            _ => {
                let Some((star_at, from)) = star else { return false };
                star = Some((star_at, from + 1));
                (at, text_at) = (star_at + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Debian 12's `kernel-install` writes it.
    const DEBIAN: &str = include_str!("../../tests/fixtures/loader-entry-debian-12.conf");
    const FOLDER: &str = "/boot/0123456789abcdef0123456789abcdef/6.1.0-57-cloud-amd64";

    fn rank(id: &str, sort_key: &str, version: &str) -> Rank {
        Rank { id: id.into(), sort_key: sort_key.into(), version: version.into(), machine_id: String::new() }
    }

    #[test]
    fn an_entry_as_kernel_install_writes_it_is_read() {
        let entry = parse("a.conf", DEBIAN).unwrap();
        assert_eq!(entry.title, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(entry.linux, format!("{FOLDER}/linux"));
        assert_eq!(entry.initrds, [format!("{FOLDER}/initrd.img-6.1.0-57-cloud-amd64")]);
        assert!(
            entry.options.starts_with("root=UUID=4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10 ro console=ttyS0 ")
        );
        assert_eq!(
            (entry.rank.sort_key.as_str(), entry.rank.version.as_str()),
            ("debian", "6.1.0-57-cloud-amd64")
        );
    }

    #[test]
    fn options_and_initrds_add_up() {
        let entry =
            parse("a.conf", "linux /k\noptions a  b\n# options x\ninitrd /i\noptions c\ninitrd /j").unwrap();
        assert_eq!(
            (entry.options.as_str(), entry.initrds),
            ("a  b c", vec!["/i".to_string(), "/j".to_string()])
        );
    }

    #[test]
    fn an_entry_for_another_processor_or_without_a_kernel_is_none() {
        assert_eq!(parse("a.conf", "linux /a\narchitecture aa64"), None);
        assert!(parse("a.conf", "linux /a\narchitecture X64").is_some());
        assert_eq!(parse("a.conf", "title memtest\nefi /memtest.efi"), None);
    }

    #[test]
    fn the_newest_good_entry_comes_first() {
        let order = [
            rank("deb-2.conf", "debian", "6.10"),
            rank("deb-1.conf", "debian", "6.9"),
            rank("other.conf", "fedora", "99"),
            rank("z+3-1.conf", "", "1"),
            rank("a.conf", "", "2"),
            rank("deb-3+0-3.conf", "debian", "7"),
        ];
        let mut mixed: Vec<_> = order.iter().rev().cloned().collect();
        mixed.sort_by(compare);
        assert_eq!(mixed, order);
    }

    #[test]
    fn the_default_of_loader_conf_is_a_pattern() {
        assert_eq!(default_pattern("timeout 3\n default  debian-*  \n"), Some("debian-*"));
        assert_eq!(default_pattern("#default x\ndefaults y\ndefault @saved"), None);
        assert!(is_meant("debian-*", "debian-6.1.conf") && is_meant("debian-6.1", "debian-6.1+3.conf"));
        assert!(is_meant("d?b*6*", "debian-6.1.conf") && !is_meant("d?b", "debian.conf"));
    }

    proptest! {
        #[test]
        fn any_text_is_an_entry_or_none(text: String) {
            let _ = (parse("x.conf", &text), default_pattern(&text), is_meant(&text, "some.conf"));
        }

        #[test]
        fn any_two_entries_have_an_order(ids in proptest::collection::vec("[ab.+0-2]{0,6}", 3), keys in proptest::collection::vec("[ab]?", 3)) {
            let ranks: Vec<_> = ids.iter().zip(&keys).map(|(id, key)| rank(id, key, id)).collect();
            for one in &ranks {
                for other in &ranks {
                    prop_assert_eq!(compare(one, other), compare(other, one).reverse());
                }
            }
        }
    }
}
