use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DEBIAN_12: &str = include_str!("../../../tests/fixtures/grub-debian-12.cfg");
const DEBIAN_13: &str = include_str!("../../../tests/fixtures/grub-debian-13.cfg");
const UUID: &str = "4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10";
/// As Debian's grub-install writes it to the ESP, `EFI/debian/grub.cfg`.
const STUB: &str = "search.fs_uuid 4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10 root \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";

/// Volume 0 is an ESP, volume 1 a root.
#[derive(Default)]
struct Fake(BTreeMap<(usize, String), String>);

impl Fake {
    fn with(mut self, volume: usize, path: &str, text: &str) -> Self {
        self.0.insert((volume, path.into()), text.into());
        self
    }
}

impl Disks for Fake {
    fn name(&self, volume: usize) -> String {
        ["hd0,gpt15", "hd0,gpt1"][volume].into()
    }

    fn by_name(&self, name: &str) -> Option<usize> {
        (0..2).find(|volume| self.name(*volume) == name)
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        ["AAAA-BBBB", UUID].iter().position(|other| *other == uuid)
    }

    fn by_label(&self, label: &str) -> Option<usize> {
        (label == "root").then_some(1)
    }

    fn exists(&self, volume: usize, path: &str) -> bool {
        self.0.contains_key(&(volume, path.into()))
    }

    fn read(&self, volume: usize, path: &str) -> Option<String> {
        self.0.get(&(volume, path.into())).cloned()
    }

    fn volumes(&self) -> usize {
        2
    }
}

fn debian(text: &str) -> Vec<Start> {
    let (starts, notes) = starts(&Fake::default(), 1, "/boot/grub/grub.cfg", text);
    assert!(notes.is_empty(), "{notes:?}");
    starts
}

fn titles(text: &str) -> Vec<String> {
    starts(&Fake::default(), 1, "/boot/grub/grub.cfg", text).0.into_iter().map(|start| start.title).collect()
}

fn with_default(default: &str) -> String {
    DEBIAN_12.replace("set default=\"0\"", &format!("set default=\"{default}\""))
}

#[test]
fn the_default_entry_of_debian_12_is_found_first_and_all_is_understood() {
    let starts = debian(DEBIAN_12);
    let expected = Start {
        title: "Debian GNU/Linux".into(),
        linux: (1, "/boot/vmlinuz-6.1.0-57-cloud-amd64".into()),
        options: "root=/dev/vda1 ro quiet".into(),
        initrds: vec![(1, "/boot/initrd.img-6.1.0-57-cloud-amd64".into())],
    };
    assert_eq!(starts[0], expected);
    assert_eq!(starts.len(), 3);
    assert_eq!(starts[2].options, "root=/dev/vda1 ro single");
}

#[test]
fn the_default_entry_of_debian_13_is_found_first_and_all_is_understood() {
    let starts = debian(DEBIAN_13);
    assert_eq!(starts[0].linux, (1, "/boot/vmlinuz-6.12.118+deb13-cloud-amd64".into()));
    assert_eq!(starts.len(), 3);
}

#[test]
fn a_stub_on_the_esp_leads_to_the_menu_on_the_root() {
    let disks = Fake::default().with(1, "/boot/grub/grub.cfg", DEBIAN_12);
    let (starts, notes) = starts(&disks, 0, "/EFI/debian/grub.cfg", STUB);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(starts[0].linux, (1, "/boot/vmlinuz-6.1.0-57-cloud-amd64".into()));
}

#[test]
fn a_default_is_a_number_a_title_an_id_or_a_way_through_submenus() {
    let recovery = "Debian GNU/Linux, with Linux 6.1.0-57-cloud-amd64 (recovery mode)";
    let id = "gnulinux-6.1.0-57-cloud-amd64-recovery-4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10";
    let advanced = "gnulinux-advanced-4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10";
    for default in ["1>1".to_string(), format!("1>{id}"), format!("{advanced}>{recovery}")] {
        assert_eq!(titles(&with_default(&default))[0], recovery, "{default}");
    }
    for default in
        ["gnulinux-simple-4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10", "Debian GNU/Linux", "77", "no such"]
    {
        assert_eq!(titles(&with_default(default))[0], "Debian GNU/Linux", "{default}");
    }
}

#[test]
fn the_environment_block_says_which_entry_was_saved_or_comes_next() {
    let menu = DEBIAN_12.replace("set default=\"0\"", "set default=\"${saved_entry}\"");
    for variable in ["saved_entry", "next_entry"] {
        let block = format!("# GRUB Environment Block\n{variable}=1>0\n{}", "#".repeat(900));
        let disks = Fake::default().with(1, "/boot/grub/grubenv", &block);
        let first = starts(&disks, 1, "/boot/grub/grub.cfg", &menu).0.swap_remove(0);
        assert_eq!(first.title, "Debian GNU/Linux, with Linux 6.1.0-57-cloud-amd64");
    }
}

#[test]
fn custom_entries_are_read_where_the_file_is_there() {
    let disks =
        Fake::default().with(1, "/boot/grub/custom.cfg", "menuentry mine {\nlinux /k a=\"b c\" d\\ e\n}\n");
    let (starts, _) = starts(&disks, 1, "/boot/grub/grub.cfg", DEBIAN_12);
    let mine = starts.last().unwrap();
    assert_eq!((mine.title.as_str(), mine.options.as_str()), ("mine", "a=b c d e"));
}

#[test]
fn conditions_hold_as_they_do_in_grub() {
    let yes = [
        "[ a = a ]",
        "[ ! a = b ]",
        "test 10 -gt 9",
        "[ -n x -a -z '' ]",
        "[ '' -o y ]",
        "! false",
        "[ \"$grub_cpu\" = x86_64 ]",
        "[ x$none = x ]",
        "true",
    ];
    let no = [
        "[ ]",
        "[ '' ]",
        "[ $none ]",
        "[ a != a ]",
        "[ -f /no ]",
        "false",
        "loadfont x",
        "[ \"$?\" = 7 ]",
        "unheard of",
    ];
    for (conditions, expected) in [(yes, "y"), (no, "n")] {
        for condition in conditions {
            let text = format!("if {condition}; then linux /y; else linux /n; fi");
            let (starts, _) = starts(&Fake::default(), 1, "/grub.cfg", &text);
            assert_eq!(starts[0].linux.1, format!("/{expected}"), "{condition}");
        }
    }
}

#[test]
fn a_search_sets_the_variable_that_it_is_told() {
    for search in [
        "search --fs-uuid --set=root 4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10",
        "search --set root --label root",
        "search --label root --set",
        "search.fs_label root root",
        "search --no-floppy -u 4b2f5f9e-94b7-4b60-9d0e-6d8c2f3a7b10 -s",
        "set root=(hd0,gpt15)\nset root=hd0,gpt1",
    ] {
        let (starts, _) = starts(&Fake::default(), 0, "/grub.cfg", &format!("{search}\nlinux /k"));
        assert_eq!(starts[0].linux, (1, "/k".into()), "{search}");
    }
}

#[test]
fn what_is_not_understood_is_skipped_and_told_once() {
    let text = "for x in 1 2; do\nlinux /no\ndone\nblscfg\nblscfg\nfunction f {\nlinux /no\n}\nf\nmenuentry a { linux /yes }";
    let (starts, notes) = starts(&Fake::default(), 1, "/grub.cfg", text);
    assert_eq!((starts.len(), starts[0].linux.1.as_str()), (1, "/yes"));
    assert_eq!(notes, ["a \"for\" is skipped", "\"blscfg\" is not known here"]);
}

#[test]
fn a_kernel_on_a_device_that_is_not_there_is_told() {
    let text = "set root='lvmid/a/b'\nmenuentry a {\nlinux /k\n}\nmenuentry b {\nlinux (hd0,gpt1)/k\ninitrd (hd9)/i\n}";
    let (starts, notes) = starts(&Fake::default(), 1, "/grub.cfg", text);
    assert_eq!((starts.len(), starts[0].title.as_str()), (1, "b"));
    assert_eq!(notes, ["/k is on no volume that is there", "(hd9)/i is on no volume that is there"]);
}

#[test]
fn files_that_read_each_other_come_to_an_end() {
    let twice = "source /a\nsource /a\n";
    let disks = Fake::default().with(1, "/a", twice);
    let (starts, notes) = starts(&disks, 1, "/a", twice);
    assert!(starts.is_empty());
    assert_eq!(notes, ["it is too long to be followed to its end"]);
}

#[test]
fn values_do_not_grow_without_end() {
    let text = format!("set a=xxxxxxxxxxxxxxxx\n{}linux /k $a", "set a=\"$a$a$a$a\"\n".repeat(40));
    let (starts, _) = starts(&Fake::default(), 1, "/grub.cfg", &text);
    assert!(starts[0].options.len() <= 16 << 10);
}

proptest! {
    #[test]
    fn any_text_comes_to_an_end(text: String, words in proptest::collection::vec(
        "(if|then|else|elif|fi|menuentry|submenu|\\{|\\}|;|\n|\\[|\\]|set a=b|\\$a|\\$\\{a|'|\"|linux /k|source /a|function f|while|done|search|!|\\\\)", 0..60)) {
        starts(&Fake::default(), 1, "/grub.cfg", &text);
        let text = words.join(" ");
        let disks = Fake::default().with(1, "/a", &text);
        starts(&disks, 1, "/grub.cfg", &text);
    }
}
