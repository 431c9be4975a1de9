//! What the words of a `grub.cfg` come to.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::lexer::{Token, Word, tokens};

/// How deep blocks may lie in one another; a file with more is cut there.
const DEPTH_LIMIT: u32 = 24;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Command(Vec<Word>),
    /// Conditions with what is done where the last command of theirs succeeds; the first that holds counts.
    If {
        branches: Vec<(Block, Block)>,
        otherwise: Block,
    },
    /// `menuentry` or `submenu`.
    Menu {
        is_submenu: bool,
        arguments: Vec<Word>,
        body: Block,
    },
    /// A function of this name; its body is nobody's.
    Function(String),
    /// A loop, by its keyword.
    Loop(String),
}

pub(super) type Block = Vec<Statement>;

pub(super) fn parse(text: &str) -> Block {
    Parser { tokens: tokens(text).into_iter().peekable(), depth: 0 }.block(&[]).0
}

struct Parser {
    tokens: core::iter::Peekable<alloc::vec::IntoIter<Token>>,
    depth: u32,
}

impl Parser {
    /// Statements up to one of these keywords, which is taken; and which that was.
    fn block(&mut self, ends: &[&str]) -> (Block, Option<String>) {
        let mut block = Block::new();
        while let Some(token) = self.tokens.next() {
            let Token::Word(first) = token else { continue };
            if let Some(end) = first.plain().filter(|word| ends.contains(word)) {
                return (block, Some(end.to_string()));
            }
            if self.depth == DEPTH_LIMIT {
                continue;
            }
            self.depth += 1;
            block.push(self.statement(first));
            self.depth -= 1;
        }
        (block, None)
    }

    fn statement(&mut self, first: Word) -> Statement {
        match first.plain() {
            Some("if") => self.conditional(),
            Some("function") => {
                let name = self.head().first().and_then(Word::plain).unwrap_or_default().to_string();
                self.block(&["}"]);
                Statement::Function(name)
            }
            Some(word @ ("for" | "while" | "until")) => {
                let keyword = word.to_string();
                self.block(&["done"]);
                Statement::Loop(keyword)
            }
            Some(word @ ("menuentry" | "submenu")) => {
                let is_submenu = word == "submenu";
                let arguments = self.head();
                Statement::Menu { is_submenu, arguments, body: self.block(&["}"]).0 }
            }
            _ => Statement::Command(self.command(first)),
        }
    }

    fn conditional(&mut self) -> Statement {
        let mut branches = Vec::new();
        loop {
            let (condition, _) = self.block(&["then"]);
            let (body, end) = self.block(&["elif", "else", "fi"]);
            branches.push((condition, body));
            match end.as_deref() {
                Some("elif") => {}
                Some("else") => return Statement::If { branches, otherwise: self.block(&["fi"]).0 },
                _ => return Statement::If { branches, otherwise: Block::new() },
            }
        }
    }

    /// Words up to the brace that opens a body.
    fn head(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.next_if(|token| matches!(token, Token::Word(_))) {
            if word.plain() == Some("{") {
                break;
            }
            words.push(word);
        }
        words
    }

    fn command(&mut self, first: Word) -> Vec<Word> {
        let mut words = Vec::from([first]);
        let belongs = |token: &Token| matches!(token, Token::Word(word) if word.plain() != Some("}"));
        while let Some(Token::Word(word)) = self.tokens.next_if(belongs) {
            words.push(word);
        }
        words
    }
}
