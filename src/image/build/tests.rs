use std::fs;

use super::*;
use crate::{
    domain::image::{
        chunks::CHUNK_BYTES,
        digest::Digest,
        reference::Version,
        signature::{ImageSigner, SignaturePolicy, Vouched},
    },
    image::{
        sign::{sign, signatures},
        store::{StoredImage, read_image},
        verify::{VerifyError, verify},
    },
};

struct Place {
    root: tempfile::TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at(root.path().join("store/image"));
        Self { root, layout }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn build(&self, source: &Source) -> Result<Descriptor, BuildError> {
        build(&self.layout, Some(&"latest".parse().unwrap()), about(), source, &mut |_, _| {})
    }

    fn built(&self, source: &Source) -> StoredImage {
        read_image(&self.layout, self.build(source).unwrap()).unwrap()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.path().join("store/image/blobs/sha256").join(digest.hex())
    }
}

fn about() -> About {
    About {
        os: "Debian 12".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: None,
        title: None,
        created: Timestamp::UNIX_EPOCH,
    }
}

fn kernel(place: &Place) -> Source {
    let (kernel, initrd) = (place.file("vmlinuz", b"kernel"), place.file("initrd", b"initrd"));
    Source::Kernel { kernel, initrd: Some(initrd), command_line: "quiet".to_owned() }
}

#[test]
fn what_was_built_twice_is_the_same_image() {
    let place = Place::new();
    let source = kernel(&place);
    assert_eq!(place.build(&source).unwrap(), place.build(&source).unwrap());
    let stored = place.built(&source);
    assert_eq!(stored.manifest.annotations[CREATED], "1970-01-01T00:00:00Z");
    verify(&place.layout, &stored, &mut |_, _| {}).unwrap();
    let found = place.layout.find(&Version::Tag("latest".parse().unwrap())).unwrap();
    assert_eq!(found.digest, stored.descriptor.digest);
}

#[test]
fn a_disk_that_is_none_is_refused_and_nothing_is_listed() {
    let place = Place::new();
    for bytes in [&b""[..], b"odd"] {
        let source = Source::Disk(place.file("disk", bytes));
        assert!(matches!(place.build(&source), Err(BuildError::DiskSize { .. })));
    }
    let missing = Source::Disk(place.root.path().join("missing"));
    assert!(matches!(place.build(&missing), Err(BuildError::Read { .. })));
    let empty = Source::Kernel { kernel: place.file("k", b""), initrd: None, command_line: String::new() };
    assert!(matches!(place.build(&empty), Err(BuildError::FileSize { found: 0, .. })));
    assert!(place.layout.index().unwrap().manifests.is_empty());
}

#[test]
fn a_command_line_that_cannot_be_given_is_refused() {
    let place = Place::new();
    let source = Source::Kernel {
        kernel: place.file("k", b"kernel"),
        initrd: None,
        command_line: "two\nlines".to_owned(),
    };
    assert!(matches!(place.build(&source), Err(BuildError::About(_))));
}

#[test]
fn a_signature_is_found_beside_its_image_and_judged() {
    let place = Place::new();
    let stored = place.built(&kernel(&place));
    let (digest, signer) = (stored.descriptor.digest, ImageSigner::from_seed([1; 32]));
    let policy = SignaturePolicy { trusted: vec![signer.key()], required: true };
    assert!(policy.judge(&digest, &signatures(&place.layout, &digest).unwrap()).is_err());
    sign(&place.layout, stored.descriptor.clone(), &signer).unwrap();
    sign(&place.layout, stored.descriptor.clone(), &signer).unwrap();
    let found = signatures(&place.layout, &digest).unwrap();
    assert_eq!(found.len(), 1, "the same signature is one");
    assert_eq!(policy.judge(&digest, &found), Ok(Vouched::By(signer.key())));
}

#[test]
fn a_damaged_byte_of_any_blob_is_found_and_named() {
    let place = Place::new();
    let mut disk = vec![0; 3 * CHUNK_BYTES as usize];
    disk[CHUNK_BYTES as usize * 2] = 1;
    let stored = place.built(&Source::Disk(place.file("disk", &disk)));
    for blob in stored.manifest.blobs() {
        let path = place.blob(&blob.digest);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let error = verify(&place.layout, &stored, &mut |_, _| {}).unwrap_err();
            let VerifyError::Layout(LayoutError::Damaged { expected, .. }) = error else {
                panic!("{error:?}")
            };
            assert_eq!(expected, blob.digest);
        }
        fs::write(&path, &whole[1..]).unwrap();
        let error = verify(&place.layout, &stored, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, VerifyError::Layout(LayoutError::Size { .. })), "{error:?}");
        fs::write(&path, &whole).unwrap();
    }
    verify(&place.layout, &stored, &mut |_, _| {}).unwrap();
}
