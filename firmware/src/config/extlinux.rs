//! `extlinux.conf` and `syslinux.cfg` (Syslinux, doc/syslinux.txt; U-Boot, doc/README.pxe).

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How deep and how often files may include others.
const INCLUDE_DEPTH: u32 = 8;
const INCLUDES: u32 = 32;
const LABELS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    pub name: String,
    pub title: String,
    pub linux: String,
    pub initrds: Vec<String>,
    pub append: String,
}

#[derive(Debug, Default)]
struct Parser {
    labels: Vec<Label>,
    default: String,
    /// What is appended for labels that say nothing of it.
    append: String,
    includes: u32,
}

/// What there is to start, the default first. `include` reads a file that is named.
pub fn parse(text: &str, include: &mut dyn FnMut(&str) -> Option<String>) -> Vec<Label> {
    let mut parser = Parser::default();
    parser.read(text, include, 0);
    let default = parser.labels.iter().position(|label| label.name == parser.default).unwrap_or(0);
    let append = parser.append;
    let mut labels: Vec<_> = parser.labels.into_iter().map(|label| finished(label, &append)).collect();
    if default < labels.len() {
        labels[..=default].rotate_right(1);
    }
    labels.retain(|label| !label.linux.is_empty());
    labels
}

impl Parser {
    fn read(&mut self, text: &str, include: &mut dyn FnMut(&str) -> Option<String>, depth: u32) {
        for line in text.lines() {
            let (key, value) = pair(line);
            let is_full = self.labels.len() >= LABELS;
            match (key.as_str(), self.labels.last_mut()) {
                ("include", _) => self.include(value, include, depth),
                ("menu", _) => self.menu(value, include, depth),
                ("default" | "ontimeout", _) => self.default = value.to_string(),
                ("label", _) if !is_full => {
                    self.labels.push(Label { name: value.to_string(), ..Label::default() });
                }
                ("append", None) => self.append = value.to_string(),
                ("append", Some(label)) => label.append = value.to_string(),
                ("linux" | "kernel", Some(label)) => label.linux = value.to_string(),
                ("initrd", Some(label)) => label.initrds = files(value),
                _ => {}
            }
        }
    }

    fn include(&mut self, file: &str, include: &mut dyn FnMut(&str) -> Option<String>, depth: u32) {
        if depth < INCLUDE_DEPTH && self.includes < INCLUDES {
            self.includes += 1;
            if let Some(text) = include(file) {
                self.read(&text, include, depth + 1);
            }
        }
    }

    fn menu(&mut self, line: &str, include: &mut dyn FnMut(&str) -> Option<String>, depth: u32) {
        let (key, value) = pair(line);
        match (key.as_str(), self.labels.last_mut()) {
            ("include", _) => self.include(value, include, depth),
            ("label", Some(label)) => label.title = value.replace('^', ""),
            ("default", Some(label)) => self.default = label.name.clone(),
            _ => {}
        }
    }
}

/// A line's first word in small letters, and the rest.
fn pair(line: &str) -> (String, &str) {
    let line = line.trim();
    let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (key.to_ascii_lowercase(), value.trim())
}

fn files(value: &str) -> Vec<String> {
    value.split(',').filter(|file| !file.is_empty()).map(ToString::to_string).collect()
}

/// With what it inherits. An initrd may also be named among the kernel's own options.
fn finished(mut label: Label, append: &str) -> Label {
    match label.append.as_str() {
        "" => label.append = append.to_string(),
        "-" => label.append.clear(),
        _ => {}
    }
    let (initrds, options): (Vec<&str>, Vec<&str>) =
        label.append.split_whitespace().partition(|option| option.starts_with("initrd="));
    if let Some(named) = initrds.last().filter(|_| label.initrds.is_empty()) {
        label.initrds = files(&named["initrd=".len()..]);
    }
    label.append = options.join(" ");
    if label.title.is_empty() {
        label.title.clone_from(&label.name);
    }
    label
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Debian 12's u-boot-menu writes it.
    const DEBIAN: &str = include_str!("../../tests/fixtures/extlinux-debian-12.conf");

    #[test]
    fn a_menu_as_u_boot_update_writes_it_is_read() {
        let labels = parse(DEBIAN, &mut |_| None);
        assert_eq!(labels.len(), 2);
        assert_eq!(labels[0].title, "Debian GNU/Linux 12 (bookworm) 6.1.0-57-cloud-amd64");
        assert_eq!(labels[0].linux, "/boot/vmlinuz-6.1.0-57-cloud-amd64");
        assert_eq!(labels[0].initrds, ["/boot/initrd.img-6.1.0-57-cloud-amd64"]);
        assert_eq!(labels[0].append, "root=UUID=4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10 ro console=ttyS0");
    }

    #[test]
    fn the_default_comes_first_and_the_others_keep_their_order() {
        let text = "LABEL a\nKERNEL a\nLABEL b\nKERNEL b\nLABEL c\nMENU DEFAULT\nKERNEL c\nINITRD x,y\nLABEL d\nKERNEL d";
        let names: Vec<_> = parse(text, &mut |_| None).into_iter().map(|label| label.name).collect();
        assert_eq!(names, ["c", "a", "b", "d"]);
        let names: Vec<_> =
            parse(&text.replace("MENU DEFAULT", ""), &mut |_| None).into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn options_are_inherited_and_an_initrd_among_them_is_found() {
        let text = "append initrd=i1,i2 quiet\nlabel a\nlinux k\nlabel b\nlinux k\nappend -\nlabel c\nlinux k\nappend x initrd=j";
        let labels = parse(text, &mut |_| None);
        assert_eq!((labels[0].append.as_str(), labels[0].initrds.len()), ("quiet", 2));
        assert_eq!((labels[1].append.as_str(), labels[1].initrds.len()), ("", 0));
        assert_eq!((labels[2].append.as_str(), labels[2].initrds.clone()), ("x", vec!["j".to_string()]));
    }

    #[test]
    fn a_file_that_includes_itself_comes_to_an_end() {
        let mut asked = 0;
        let labels = parse("include self\nlabel a\nlinux k", &mut |_| {
            asked += 1;
            Some("include self\ninclude self\nlabel a\nlinux k".into())
        });
        assert!(asked <= INCLUDES && labels.len() <= 1 + INCLUDES as usize);
    }

    proptest! {
        #[test]
        fn any_text_is_a_menu(text: String, lines in proptest::collection::vec("(label|linux|append|default|menu default|include|initrd) [a-c,= -]{0,6}", 0..20)) {
            parse(&text, &mut |_| None);
            let lines = lines.join("\n");
            parse(&lines, &mut |_| Some(lines.clone()));
        }
    }
}
