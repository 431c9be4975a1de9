//! Imports run one way, and unsafe code stays where the walls are: read from the sources themselves.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each room of package `sublet`, with the rooms that it may use.
const ROOMS: [(&str, &[&str]); 9] = [
    ("domain", &[]),
    ("inventory", &[]),
    ("image", &["domain"]),
    ("api", &["domain"]),
    ("client", &["api", "domain"]),
    ("cli", &["inventory", "image", "client", "api", "domain"]),
    ("registry", &["clock", "api", "domain"]),
    ("image_server", &["image", "api", "domain"]),
    ("agent", &["clock", "inventory", "image", "client", "api", "domain"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

/// A room is a folder, a file, or both.
fn room(name: &str) -> Vec<PathBuf> {
    let file = root().join(format!("src/{name}.rs"));
    let mut found = sources(&root().join("src").join(name));
    found.extend(file.exists().then_some(file));
    assert!(!found.is_empty(), "there is no room {name}");
    found
}

/// The rooms named after `crate::` in a source, in `use` trees as well.
fn rooms_used(source: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(tree) => used.extend(first_names(tree)),
            None => used.push(name_at(rest)),
        }
    }
    used
}

/// The first path segment of each branch of a `use` tree.
fn first_names(tree: &str) -> Vec<String> {
    let (mut names, mut depth, mut fresh) = (Vec::new(), 0, true);
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            letter if fresh && letter.is_alphabetic() => {
                names.push(name_at(&tree[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn imports_run_one_way() {
    for (name, allowed) in ROOMS {
        for path in room(name) {
            let source = fs::read_to_string(&path).unwrap();
            for used in rooms_used(&source) {
                let known = ROOMS.iter().any(|(room, _)| *room == used) || used == "clock";
                let wrong = known && used != name && !allowed.contains(&used.as_str());
                assert!(!wrong, "{} uses {used}, which {name} may not", path.display());
            }
        }
    }
}

#[test]
fn the_domain_has_no_clock_files_sockets_sql_or_randomness() {
    let impure = [
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "std::fs",
        "std::net",
        "rusqlite",
        "tokio",
        "rand::rng",
    ];
    for path in room("domain") {
        let source = fs::read_to_string(&path).unwrap();
        let promise = source.split("#[cfg(test)]").next().unwrap();
        for word in impure {
            let is_test = path.ends_with("tests.rs");
            assert!(is_test || !promise.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn the_machine_the_firmware_and_the_guest_import_nothing_of_sublet() {
    for package in [
        "vmm",
        "vmm/protocol",
        "vmm/fuzz",
        "vmm/tests/hostile",
        "firmware",
        "firmware/fuzz",
        "images/guest",
        "images/guest/protocol",
    ] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let dependency = |line: &str| line.starts_with("sublet.") || line.starts_with("sublet =");
        assert!(!manifest.lines().any(dependency), "{package} depends on sublet");
    }
}

#[test]
fn every_crate_of_sublet_forbids_unsafe_code() {
    for path in sources(&root().join("src")) {
        let is_crate =
            path.ends_with("src/lib.rs") || path.parent().is_some_and(|folder| folder.ends_with("bin"));
        let source = fs::read_to_string(&path).unwrap();
        assert!(!is_crate || source.contains("#![forbid(unsafe_code)]"), "{}", path.display());
    }
}

/// Crates of ours and of others that are Linux's alone.
const LINUX_ALONE: [&str; 9] = [
    "inotify",
    "io-uring",
    "kvm-ioctls",
    "linux-raw-sys",
    "procfs",
    "seccompiler",
    "tokio-vsock",
    "vhost",
    "vsock",
];

/// Names of all crates that the command line is made of, for a target.
fn crates_of_the_command_line(target: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let options = ["--no-default-features", "--features", "cli", "--edges", "normal", "--prefix", "none"];
    let mut tree = std::process::Command::new(cargo);
    tree.current_dir(root())
        .args(["tree", "--locked", "--package", "sublet", "--target", target])
        .args(options);
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Any OS can be a borrower [0032]: what is for one alone is known by name. That it is compiled elsewhere is not shown here.
#[test]
fn the_command_line_needs_nothing_that_is_linuxs_alone_and_unix_in_three_files() {
    for target in ["x86_64-apple-darwin", "x86_64-pc-windows-gnu"] {
        let crates = crates_of_the_command_line(target);
        assert!(crates.iter().any(|name| name == "reqwest"), "{crates:?}");
        let linuxs = crates.iter().filter(|name| LINUX_ALONE.contains(&name.as_str()));
        assert_eq!(linuxs.count(), 0, "{target}: {crates:?}");
    }
    let mut unix = Vec::new();
    for path in ["cli", "client", "domain"].iter().flat_map(|name| room(name)) {
        let source = fs::read_to_string(&path).unwrap();
        assert!(
            !["rustix::", " nix::", "libc::", "os::linux"].iter().any(|word| source.contains(word)),
            "{path:?}"
        );
        unix.extend(source.contains("os::unix").then(|| path.file_name().unwrap().to_owned()));
    }
    unix.sort();
    assert_eq!(unix, ["context.rs", "lease_store.rs", "ssh.rs"]);
}

#[test]
fn rooms_are_read_out_of_use_trees() {
    let source = "use crate::{api::agent::{A, B}, domain::id};\nuse crate::client::C;";
    assert_eq!(rooms_used(source), ["api", "domain", "client"]);
}
