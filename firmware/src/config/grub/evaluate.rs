//! A `grub.cfg`, followed as far as it says what is started.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::lexer::{Part, Word};
use super::script::{Block, Statement, parse};

/// Statements that are followed, in all.
const STEPS: u32 = 20_000;
/// Reading so many bytes of another file counts as a statement.
const STEP_BYTES: usize = 32;
/// How deep files may read others, and blocks lie in blocks that were read.
const DEPTH: u32 = 16;
const MENU_LIMIT: usize = 256;
/// Longest a word, and a variable, may become.
const WORD_LIMIT: usize = 16 << 10;
const NOTES_LIMIT: usize = 8;
/// What a menu's entries are tried for, at most.
const STARTS_LIMIT: usize = 8;

/// The volumes that a `grub.cfg` can name. Numbers are those of the one who asks.
pub trait Disks {
    /// As GRUB calls it, without parentheses: `hd0,gpt1`.
    fn name(&self, volume: usize) -> String;
    fn by_name(&self, name: &str) -> Option<usize>;
    fn by_uuid(&self, uuid: &str) -> Option<usize>;
    fn by_label(&self, label: &str) -> Option<usize>;
    fn exists(&self, volume: usize, path: &str) -> bool;
    fn read(&self, volume: usize, path: &str) -> Option<String>;
    fn volumes(&self) -> usize;
}

/// What an entry starts: files by volume and path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    pub title: String,
    pub linux: (usize, String),
    pub options: String,
    pub initrds: Vec<(usize, String)>,
}

/// An entry of a menu that is shown.
#[derive(Debug, Clone)]
pub(super) struct Item {
    title: String,
    id: String,
    is_submenu: bool,
    body: Block,
}

pub(super) struct Evaluator<'a> {
    pub(super) disks: &'a dyn Disks,
    pub(super) variables: BTreeMap<String, String>,
    functions: BTreeSet<String>,
    menu: Vec<Item>,
    pub(super) linux: Option<(usize, String)>,
    pub(super) options: String,
    pub(super) initrds: Vec<(usize, String)>,
    pub(super) notes: Vec<String>,
    steps: u32,
    depth: u32,
}

/// What the file at `path` starts: its default entry, then others in their order. Also what was not understood.
pub fn starts(disks: &dyn Disks, volume: usize, path: &str, text: &str) -> (Vec<Start>, Vec<String>) {
    let mut evaluator = Evaluator::new(disks, volume, path);
    evaluator.run(&parse(text));
    let menu = core::mem::take(&mut evaluator.menu);
    let default = evaluator.variables.get("default").cloned().unwrap_or_default();
    let mut starts = Vec::new();
    // A file that names a kernel without any menu starts that one.
    starts.extend(evaluator.take_start("grub.cfg"));
    evaluator.collect(&menu, &default, &mut starts);
    (starts, evaluator.notes)
}

impl<'a> Evaluator<'a> {
    fn new(disks: &'a dyn Disks, volume: usize, path: &str) -> Self {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let prefix = format!("({}){folder}", disks.name(volume));
        let variables = [
            ("root", disks.name(volume)),
            ("prefix", prefix.clone()),
            ("config_directory", prefix),
            ("grub_cpu", "x86_64".to_owned()),
            ("grub_platform", "pc".to_owned()),
            ("feature_menuentry_id", "y".to_owned()),
            ("feature_platform_search_hint", "y".to_owned()),
            ("feature_all_video_module", "y".to_owned()),
            ("feature_default_font_path", "y".to_owned()),
            ("feature_timeout_style", "y".to_owned()),
        ];
        Self {
            disks,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            functions: BTreeSet::new(),
            menu: Vec::new(),
            linux: None,
            options: String::new(),
            initrds: Vec::new(),
            notes: Vec::new(),
            steps: STEPS,
            depth: 0,
        }
    }

    /// Follows the menu from its default on, submenus as well.
    fn collect(&mut self, menu: &[Item], default: &str, starts: &mut Vec<Start>) {
        let (first, rest) = default.split_once('>').unwrap_or((default, ""));
        let chosen = menu
            .iter()
            .position(|item| !first.is_empty() && (item.id == first || item.title == first))
            .or_else(|| first.trim().parse().ok().filter(|number| *number < menu.len()))
            .unwrap_or(0);
        let order = menu.get(chosen).into_iter().map(|item| (item, rest));
        let others =
            menu.iter().enumerate().filter(|(number, _)| *number != chosen).map(|(_, item)| (item, ""));
        for (item, default) in order.chain(others) {
            if starts.len() >= STARTS_LIMIT || self.depth == DEPTH {
                return;
            }
            self.enter(item, default, starts);
        }
    }

    /// Runs the body of an entry with the variables as the menu left them.
    fn enter(&mut self, item: &Item, default: &str, starts: &mut Vec<Start>) {
        let before = self.variables.clone();
        self.depth += 1;
        self.set("chosen", &item.title);
        self.run(&item.body);
        if item.is_submenu {
            let menu = core::mem::take(&mut self.menu);
            self.collect(&menu, default, starts);
        } else {
            self.menu.clear();
            starts.extend(self.take_start(&item.title));
        }
        self.depth -= 1;
        self.variables = before;
    }

    fn take_start(&mut self, title: &str) -> Option<Start> {
        let (options, initrds) = (core::mem::take(&mut self.options), core::mem::take(&mut self.initrds));
        self.linux.take().map(|linux| Start { title: title.to_string(), linux, options, initrds })
    }

    /// Whether the last statement succeeded.
    pub(super) fn run(&mut self, block: &Block) -> bool {
        let mut success = true;
        for statement in block {
            if self.steps == 0 || self.depth == DEPTH {
                self.note("it is too long to be followed to its end".to_owned());
                return false;
            }
            self.steps -= 1;
            self.depth += 1;
            success = self.step(statement);
            self.depth -= 1;
            self.set("?", if success { "0" } else { "1" });
        }
        success
    }

    fn step(&mut self, statement: &Statement) -> bool {
        match statement {
            Statement::Command(words) => {
                let words = self.expand(words);
                words.split_first().is_none_or(|(name, words)| self.command(name, words))
            }
            Statement::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.run(condition) {
                        return self.run(body);
                    }
                }
                self.run(otherwise)
            }
            Statement::Menu { is_submenu, arguments, body } => self.add(*is_submenu, arguments, body),
            Statement::Function(name) => {
                self.functions.insert(name.clone());
                true
            }
            Statement::Loop(keyword) => {
                self.note(format!("a \"{keyword}\" is skipped"));
                true
            }
        }
    }

    fn add(&mut self, is_submenu: bool, arguments: &[Word], body: &Block) -> bool {
        let words = self.expand(arguments);
        let id = words.iter().position(|word| word == "--id").and_then(|at| words.get(at + 1));
        let item = Item {
            title: words.first().cloned().unwrap_or_default(),
            id: id.cloned().unwrap_or_default(),
            is_submenu,
            body: body.clone(),
        };
        if self.menu.len() < MENU_LIMIT {
            self.menu.push(item);
        }
        true
    }

    pub(super) fn is_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if value.len() <= WORD_LIMIT {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Reads another file in place; its menu entries are added to this one's.
    pub(super) fn include(&mut self, path: &str) -> bool {
        let Some((volume, path)) = self.locate(path) else { return false };
        let Some(text) = self.disks.read(volume, &path) else { return false };
        self.steps = self.steps.saturating_sub(u32::try_from(text.len() / STEP_BYTES).unwrap_or(STEPS));
        self.run(&parse(&text))
    }

    /// Volume and path of `(device)/path`, or of a path on the root device.
    pub(super) fn locate(&self, path: &str) -> Option<(usize, String)> {
        let root = || self.variables.get("root").map_or("", String::as_str);
        let (device, path) = match path.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?,
            None => (root(), path),
        };
        self.disks.by_name(device).map(|volume| (volume, path.to_owned()))
    }

    /// Told once each.
    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_LIMIT && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn expand(&self, words: &[Word]) -> Vec<String> {
        words.iter().flat_map(|word| self.expand_word(word)).collect()
    }

    /// The words that one becomes: none where it is an empty variable, several where one has blanks.
    fn expand_word(&self, word: &Word) -> Vec<String> {
        let mut words = Vec::new();
        let mut current = word.quoted.then(String::new);
        for part in &word.parts {
            match part {
                Part::Text(text) => append(&mut current, text),
                Part::Variable { name, quoted } => {
                    let value = self.variables.get(name).map_or("", String::as_str);
                    if *quoted {
                        append(&mut current, value);
                    } else {
                        split(value, &mut current, &mut words);
                    }
                }
            }
        }
        words.extend(current);
        words
    }
}

fn append(current: &mut Option<String>, text: &str) {
    let word = current.get_or_insert_default();
    if word.len() + text.len() <= WORD_LIMIT {
        word.push_str(text);
    }
}

/// Adds a value, whose blanks end words.
fn split(value: &str, current: &mut Option<String>, words: &mut Vec<String>) {
    let mut pieces = value.split(char::is_whitespace).filter(|piece| !piece.is_empty());
    if value.starts_with(char::is_whitespace) {
        words.extend(current.take());
    }
    if let Some(first) = pieces.next() {
        append(current, first);
    }
    for piece in pieces {
        words.extend(current.replace(piece.to_owned()));
    }
    if value.ends_with(char::is_whitespace) {
        words.extend(current.take());
    }
}
