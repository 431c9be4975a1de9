use super::*;
use crate::domain::image::merkle;
use proptest::prelude::*;

fn of_a_kernel() -> Image {
    Image {
        os: "Debian 12".to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: Some("6.12.1".to_owned()),
        title: Some("Debian, small".to_owned()),
        boot: Boot::Kernel {
            kernel: Descriptor::of(media_type::KERNEL, b"kernel"),
            initrd: Some(Descriptor::of(media_type::INITRD, b"initrd")),
            command_line: "console=ttyS0".to_owned(),
        },
    }
}

fn of_a_disk() -> Image {
    let disk = Disk {
        size: DiskSize::new(1024).unwrap(),
        merkle_root: merkle::leaf(&[1; 1024]),
        disk: Descriptor::of(media_type::DISK, &[1; 1024]),
        chunks: Descriptor::of(media_type::CHUNKS, merkle::leaf(&[1; 1024]).bytes()),
    };
    Image { boot: Boot::Disk(disk), ..of_a_kernel() }
}

/// Manifest and config of an image.
fn stored(image: &Image) -> (Manifest, Vec<u8>) {
    let config = image.config().to_bytes().unwrap();
    (image.manifest(Descriptor::of(media_type::CONFIG, &config)), config)
}

/// The error of an image whose manifest was changed.
fn changed(image: &Image, change: impl FnOnce(&mut Manifest)) -> BadImage {
    let (mut manifest, config) = stored(image);
    change(&mut manifest);
    Image::read(&manifest, &config).unwrap_err()
}

#[test]
fn an_image_is_read_as_it_was_written() {
    for image in [of_a_kernel(), of_a_disk()] {
        let (manifest, config) = stored(&image);
        assert_eq!(Image::read(&manifest, &config).unwrap(), image);
    }
}

#[test]
fn another_artifact_is_no_image() {
    let error = changed(&of_a_kernel(), |manifest| manifest.artifact_type = Some("text/plain".to_owned()));
    assert!(matches!(error, BadImage::Kind(kind) if kind == "text/plain"));
    let error = changed(&of_a_kernel(), |manifest| manifest.config.media_type = media_type::EMPTY.to_owned());
    assert!(matches!(error, BadImage::ConfigKind(_)));
}

#[test]
fn a_config_that_is_not_the_manifests_is_refused() {
    let (manifest, _) = stored(&of_a_kernel());
    let (_, other) = stored(&of_a_disk());
    assert!(matches!(Image::read(&manifest, &other), Err(BadImage::ConfigDigest { .. })));
    let error = changed(&of_a_kernel(), |manifest| manifest.config.size = 1 << 40);
    assert!(matches!(error, BadImage::ConfigSize(_)));
}

#[test]
fn layers_are_those_that_the_boot_needs_and_no_others() {
    let error = changed(&of_a_kernel(), |manifest| drop(manifest.layers.remove(0)));
    assert!(matches!(error, BadImage::Missing("kernel")));
    let error = changed(&of_a_disk(), |manifest| drop(manifest.layers.pop()));
    assert!(matches!(error, BadImage::Missing("chunks")));
    for media_type in [media_type::INITRD, media_type::DISK, "text/plain"] {
        let layer = Descriptor::of(media_type, b"");
        let error = changed(&of_a_kernel(), |manifest| manifest.layers.push(layer));
        assert!(matches!(error, BadImage::Surplus(kind) if kind == media_type));
    }
}

#[test]
fn a_layer_is_as_long_as_it_can_be() {
    let error = changed(&of_a_kernel(), |manifest| manifest.layers[0].size = FILE_MAX_BYTES + 1);
    assert!(matches!(error, BadImage::TooLarge { kind: "kernel", .. }));
    let error = changed(&of_a_disk(), |manifest| manifest.layers[0].size = 1025);
    assert!(matches!(error, BadImage::TooLarge { kind: "disk", expected: 1024, found: 1025 }));
    let error = changed(&of_a_disk(), |manifest| manifest.layers[1].size = 64);
    assert!(matches!(error, BadImage::Size { kind: "chunks", expected: 32, found: 64 }));
}

#[test]
fn an_annotation_says_what_the_config_says_or_is_not_there() {
    for name in [OS, DISK_BYTES, MERKLE_ROOT] {
        let other = |manifest: &mut Manifest| {
            manifest.annotations.insert(name.to_owned(), "other".to_owned());
        };
        assert!(matches!(changed(&of_a_disk(), other), BadImage::Annotation { name: at, .. } if at == name));
        let (mut manifest, config) = stored(&of_a_disk());
        manifest.annotations.remove(name);
        assert!(Image::read(&manifest, &config).is_ok());
    }
}

proptest! {
    #[test]
    fn any_changed_byte_of_manifest_or_config_is_found(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let (manifest, mut config) = stored(&of_a_disk());
        let mut bytes = manifest.to_bytes().unwrap();
        let digest = Digest::of(&bytes);
        let index = at.index(bytes.len());
        bytes[index] ^= flip;
        prop_assert_ne!(Digest::of(&bytes), digest);
        let index = at.index(config.len());
        config[index] ^= flip;
        let is_found = matches!(Image::read(&manifest, &config), Err(BadImage::ConfigDigest { .. }));
        prop_assert!(is_found);
    }
}
