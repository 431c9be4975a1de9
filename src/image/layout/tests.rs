use std::thread;

use super::*;

fn layout() -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::at(root.path().join("debian/12"));
    (root, layout)
}

/// A manifest around one blob, which is kept.
fn manifest(layout: &Layout, blob: &[u8]) -> (Manifest, Vec<u8>) {
    let config = layout.add_blob(media_type::CONFIG, blob).unwrap();
    let manifest = Manifest::new("text/plain", config);
    let bytes = manifest.to_bytes().unwrap();
    (manifest, bytes)
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

#[test]
fn a_manifest_is_found_by_tag_and_by_digest() {
    let (_root, layout) = layout();
    let (manifest, bytes) = manifest(&layout, b"config");
    let added = layout.add_manifest(&manifest, &bytes, Some(&tag("latest"))).unwrap();
    for version in [Version::Tag(tag("latest")), Version::Digest(added.digest)] {
        let found = layout.find(&version).unwrap();
        assert_eq!(layout.manifest(&found).unwrap(), (manifest.clone(), bytes.clone()));
    }
    assert!(matches!(layout.find(&Version::Tag(tag("other"))), Err(LayoutError::NoImage(_))));
}

#[test]
fn a_directory_that_is_not_there_holds_nothing() {
    assert_eq!(Layout::at("/nonexistent".into()).index().unwrap(), Index::default());
}

#[test]
fn a_manifest_whose_blob_is_missing_or_cut_is_not_listed() {
    let (_root, layout) = layout();
    let manifest = Manifest::new("text/plain", Descriptor::of(media_type::CONFIG, b"config"));
    let bytes = manifest.to_bytes().unwrap();
    let missing = layout.add_manifest(&manifest, &bytes, None);
    assert!(matches!(missing, Err(LayoutError::NoBlob { .. })));
    layout.add_blob(media_type::CONFIG, b"config").unwrap();
    fs::write(layout.blob(&manifest.config.digest), b"con").unwrap();
    let cut = layout.add_manifest(&manifest, &bytes, None);
    assert!(matches!(cut, Err(LayoutError::Size { expected: 6, found: 3, .. })));
    assert_eq!(layout.index().unwrap(), Index::default());
}

#[test]
fn a_damaged_blob_is_told_from_a_whole_one() {
    let (_root, layout) = layout();
    let blob = layout.add_blob(media_type::CONFIG, b"config").unwrap();
    fs::write(layout.blob(&blob.digest), b"confiG").unwrap();
    assert!(matches!(layout.read_blob(&blob, 100), Err(LayoutError::Damaged { .. })));
    assert!(matches!(layout.read_blob(&blob, 5), Err(LayoutError::TooLong { max: 5, found: 6, .. })));
}

#[test]
fn what_is_not_kept_is_gone_and_so_is_what_a_dead_writer_left() {
    let (_root, layout) = layout();
    drop(layout.incoming().unwrap());
    let folder = layout.directory.join(INCOMING);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::write(folder.join("left-behind"), b"").unwrap();
    let _first = layout.incoming().unwrap();
    let _second = layout.incoming().unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "those that are being written");
}

#[test]
fn writers_at_the_same_time_lose_nothing_of_one_another() {
    let (_root, layout) = layout();
    thread::scope(|scope| {
        for writer in 0..8u8 {
            let layout = &layout;
            scope.spawn(move || {
                for number in 0..8u8 {
                    // Each blob is one that somebody else brings as well.
                    let (manifest, bytes) = manifest(layout, &[writer / 2, number]);
                    let tag = tag(&format!("v{writer}-{number}"));
                    layout.add_manifest(&manifest, &bytes, Some(&tag)).unwrap();
                }
            });
        }
    });
    let index = layout.index().unwrap();
    assert_eq!(index.tags().len(), 64);
    assert!(index.manifests.iter().all(|entry| layout.manifest(entry).is_ok()));
}

#[test]
fn a_directory_that_lacks_only_its_mark_loses_nothing() {
    let (_root, layout) = layout();
    let (manifest, bytes) = manifest(&layout, b"config");
    layout.add_manifest(&manifest, &bytes, Some(&tag("latest"))).unwrap();
    fs::remove_file(layout.directory.join(LAYOUT_FILE)).unwrap();
    layout.add_blob(media_type::CONFIG, b"more").unwrap();
    assert!(layout.find(&Version::Tag(tag("latest"))).is_ok());
    assert!(layout.directory.join(LAYOUT_FILE).exists());
}

#[test]
fn an_index_that_is_none_is_named() {
    let (_root, layout) = layout();
    layout.add_blob(media_type::CONFIG, b"").unwrap();
    fs::write(layout.directory.join(INDEX_FILE), "[]").unwrap();
    let error = layout.index().unwrap_err();
    assert!(matches!(&error, LayoutError::Index { path, .. } if path.ends_with(INDEX_FILE)), "{error:?}");
}
