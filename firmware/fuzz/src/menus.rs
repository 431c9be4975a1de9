//! The menus that are plain lists: loader entries, loader.conf, extlinux.conf.

use sublet_firmware::config::{extlinux, loader_entry, version};

use crate::Seed;

const LABELS_MAX: usize = 256;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let labels = extlinux::parse(&text, &mut |_| Some(text.to_string()));
    assert!(labels.len() <= LABELS_MAX, "{} labels", labels.len());
    let (id, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let pattern = loader_entry::default_pattern(&text).unwrap_or(rest);
    let _ = loader_entry::is_meant(pattern, id);
    if let (Some(one), Some(other)) = (loader_entry::parse(id, &text), loader_entry::parse(rest, &text)) {
        let order = loader_entry::compare(&one.rank, &other.rank);
        assert_eq!(order, loader_entry::compare(&other.rank, &one.rank).reverse());
    }
    assert_eq!(version::compare(id, rest), version::compare(rest, id).reverse());
}

pub fn seeds() -> Vec<Seed> {
    vec![
        (
            "entry",
            b"title a\nversion 6.1.0-9\nsort-key debian\nlinux /k\ninitrd /i\noptions quiet\n".to_vec(),
        ),
        (
            "extlinux",
            b"default l0\nmenu title x\nlabel l0\n\tmenu label y\n\tlinux /k\n\tinitrd /a,/b\n\tappend z\n"
                .to_vec(),
        ),
        ("conf", b"6.1~rc1^2\n6.1.0-10\ntimeout 3\ndefault debian-*\ninclude x\n".to_vec()),
    ]
}
