//! A store of a test's own, and the command line at work on it.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const CHUNK: usize = 64 * 1024;

pub(crate) struct Store {
    root: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// One that has a disk image, `debian/12:full`.
    pub(crate) fn with_disk() -> Self {
        let store = Self::new();
        let disk = store.disk();
        store.done(&["build", "debian/12:full", "--os", "Debian 12", "--disk", &disk]);
        store
    }

    /// One that has an image of a kernel and an initial RAM disk, `debian/micro:latest`.
    pub(crate) fn with_kernel() -> Self {
        let store = Self::new();
        let (kernel, initrd) = (store.write("vmlinuz", b"a kernel"), store.write("initrd", b"a RAM disk"));
        let files = ["--kernel", &kernel, "--initrd", &initrd, "--command-line", "console=ttyS0"];
        store.done(&[&["build", "debian/micro", "--os", "Debian 12 (micro)"], &files[..]].concat());
        store
    }

    /// A raw disk with data, zeroes, holes, and an end within a chunk.
    fn disk(&self) -> String {
        let path = self.file("disk.raw");
        let file = fs::File::create(&path).unwrap();
        file.set_len(5 * CHUNK as u64 + 512).unwrap();
        let data: Vec<u8> = (0..CHUNK).map(|at| (at % 251) as u8).collect();
        for chunk in [0, 2, 3] {
            file.write_all_at(&data, chunk * CHUNK as u64).unwrap();
        }
        file.write_all_at(&[0; CHUNK], CHUNK as u64).unwrap();
        file.write_all_at(b"the end", 5 * CHUNK as u64).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// A file beside the store.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.file(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `sublet image` on this store.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sublet"));
        command.args(["--json", "image", "--store"]).arg(self.path()).args(arguments);
        command.env("SOURCE_DATE_EPOCH", "1764000000").output().unwrap()
    }

    /// What it says, where it has to succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn said(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(arguments)).unwrap()
    }

    /// What it complains about, where it has to fail.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The digest of an image.
    pub(crate) fn digest(&self, image: &str) -> String {
        self.said(&["inspect", image])["digest"].as_str().unwrap().to_owned()
    }

    /// The manifest of an image, as it is stored.
    pub(crate) fn manifest(&self, repository: &str, digest: &str) -> Value {
        serde_json::from_slice(&fs::read(self.blob(repository, digest)).unwrap()).unwrap()
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.path().join(repository).join("blobs/sha256").join(hex)
    }

    /// All images that it lists.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.said(&["list"]);
        let images = listed["images"].as_array().unwrap();
        images.iter().map(|image| image["image"].as_str().unwrap().to_owned()).collect()
    }
}

/// The files that are still on their way below a directory.
pub(crate) fn incoming(layout: &Path) -> usize {
    fs::read_dir(layout.join(".incoming")).map_or(0, Iterator::count)
}
