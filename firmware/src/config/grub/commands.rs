//! The commands that matter to what is started.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::condition;
use super::evaluate::Evaluator;

/// An environment block is text of this length, padded with `#` (GRUB manual, "The GRUB environment block").
const ENVIRONMENT_HEAD: &str = "# GRUB Environment Block";
/// What succeeds and changes nothing that is looked at here.
const IGNORED: [&str; 18] = [
    "true",
    "echo",
    "insmod",
    "rmmod",
    "export",
    "save_env",
    "terminal",
    "terminal_input",
    "terminal_output",
    "serial",
    "background_color",
    "background_image",
    "clear",
    "play",
    "password",
    "password_pbkdf2",
    "sleep",
    "boot",
];
/// What fails, since there is no screen, no keyboard, and no EFI.
const FAILING: [&str; 5] = ["false", "loadfont", "keystatus", "fwsetup", "chainloader"];

impl Evaluator<'_> {
    /// Whether it succeeded.
    pub(super) fn command(&mut self, name: &str, words: &[String]) -> bool {
        match name {
            "!" => !words.split_first().is_some_and(|(name, words)| self.command(name, words)),
            "set" => words.first().is_none_or(|word| self.assign(word)),
            "unset" => {
                words.iter().for_each(|name| _ = self.variables.remove(name));
                true
            }
            "[" => self.test(words.strip_suffix(&["]".to_owned()]).unwrap_or(words)),
            "test" => self.test(words),
            "load_env" => self.load_environment(words),
            "source" | "." | "configfile" | "normal" => words.first().is_some_and(|path| self.include(path)),
            "linux" | "linux16" | "linuxefi" => self.linux(words),
            "initrd" | "initrd16" | "initrdefi" => self.initrd(words),
            name if name.starts_with("search") => self.search(name, words),
            name if FAILING.contains(&name) => false,
            name if IGNORED.contains(&name) || self.is_function(name) => true,
            name if is_assignment(name) => self.assign(name),
            name => {
                self.note(format!("\"{name}\" is not known here"));
                false
            }
        }
    }

    fn assign(&mut self, word: &str) -> bool {
        if let Some((name, value)) = word.split_once('=') {
            self.set(name, value);
        }
        true
    }

    fn test(&self, words: &[String]) -> bool {
        let exists = |operator: &str, path: &str| {
            let found = self.locate(path).filter(|(volume, path)| self.disks.exists(*volume, path));
            found.is_some_and(|(volume, path)| match operator {
                "-s" => self.disks.read(volume, &path).is_some_and(|text| !text.is_empty()),
                _ => true,
            })
        };
        condition::holds(words, &exists)
    }

    /// Sets the variables of an environment block: all of them, or those that are named.
    fn load_environment(&mut self, words: &[String]) -> bool {
        let file = words.iter().position(|word| word == "--file" || word == "-f");
        let path = match file.and_then(|at| words.get(at + 1)) {
            Some(path) => path.clone(),
            None => format!("{}/grubenv", self.variables.get("prefix").map_or("", String::as_str)),
        };
        let wanted = file.map_or(words, |at| words.get(at + 2..).unwrap_or_default());
        let Some((volume, path)) = self.locate(&path) else { return false };
        let Some(text) = self.disks.read(volume, &path).filter(|text| text.starts_with(ENVIRONMENT_HEAD))
        else {
            return false;
        };
        for (name, value) in
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='))
        {
            if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
                self.set(name, value);
            }
        }
        true
    }

    fn linux(&mut self, words: &[String]) -> bool {
        let Some((path, options)) = words.split_first() else { return false };
        self.linux = self.locate(path);
        if self.linux.is_none() {
            self.note(format!("{path} is on no volume that is there"));
        }
        self.options = options.join(" ");
        self.initrds.clear();
        self.linux.is_some()
    }

    fn initrd(&mut self, words: &[String]) -> bool {
        let files = words.iter().filter(|word| !word.starts_with("--"));
        let found: Option<_> = files.map(|path| self.locate(path)).collect();
        match found {
            Some(found) => self.initrds = found,
            None => self.note(format!("{} is on no volume that is there", words.join(" "))),
        }
        true
    }

    /// `search` with its options, or `search.fs_uuid` and the like: finds a volume and sets a variable to its name.
    fn search(&mut self, name: &str, words: &[String]) -> bool {
        let mut kind = name.strip_prefix("search.").unwrap_or_default();
        let (mut variable, mut wanted) = (None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--fs-uuid" | "-u" => kind = "fs_uuid",
                "--label" | "-l" => kind = "fs_label",
                "--file" | "-f" => kind = "file",
                "--set" | "-s" => variable = variable.or(Some("root".to_owned())),
                "--hint" => _ = words.next(),
                option if option.starts_with("--set=") => {
                    variable = Some(option["--set=".len()..].to_owned())
                }
                option if option.starts_with("--") => {}
                word if wanted.is_none() => wanted = Some(word.to_owned()),
                word if name.contains('.') && variable.is_none() => variable = Some(word.to_owned()),
                // `--set name what`, or a hint.
                word if variable.as_deref() == Some("root") && !name.contains('.') => {
                    variable = wanted.replace(word.to_owned());
                }
                _ => {}
            }
        }
        let found = wanted.and_then(|wanted| self.find(kind, &wanted));
        if let Some(volume) = found {
            let name = self.disks.name(volume);
            self.set(variable.as_deref().unwrap_or("root"), &name);
        }
        found.is_some()
    }

    fn find(&self, kind: &str, wanted: &str) -> Option<usize> {
        match kind {
            "fs_uuid" => self.disks.by_uuid(wanted),
            "fs_label" => self.disks.by_label(wanted),
            "file" | "fs_file" => (0..self.disks.volumes()).find(|volume| self.disks.exists(*volume, wanted)),
            _ => None,
        }
    }
}

fn is_assignment(word: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    word.split_once('=').is_some_and(|(name, _)| is_name(name))
}
