//! Words as GRUB's shell splits them (GRUB manual, "Quoting").

use alloc::string::String;
use alloc::vec::Vec;

/// Part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// Its value is one word where it stood in quotes, else as many as there are blanks in it.
    Variable {
        name: String,
        quoted: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    /// The end of a line, or a semicolon.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Word {
    pub(super) parts: Vec<Part>,
    /// Some of it was in quotes, so that it is a word even if it is empty, and never a keyword.
    pub(super) quoted: bool,
}

impl Word {
    /// Its text where it has neither quotes nor variables: only then can it be a keyword.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] if !self.quoted => Some(text),
            _ => None,
        }
    }

    fn push(&mut self, letter: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(letter),
            _ => self.parts.push(Part::Text(String::from(letter))),
        }
    }
}

type Letters<'a> = core::iter::Peekable<core::str::Chars<'a>>;

/// All tokens of a text. What is open at its end is closed there.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut letters = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(letter) = letters.peek().copied() {
        match letter {
            '\n' | ';' => {
                letters.next();
                tokens.push(Token::End);
            }
            '#' => while letters.next_if(|letter| *letter != '\n').is_some() {},
            letter if letter.is_whitespace() => {
                letters.next();
            }
            _ => tokens.extend(word(&mut letters).map(Token::Word)),
        }
    }
    tokens
}

/// None where it was only a line that goes on.
fn word(letters: &mut Letters<'_>) -> Option<Word> {
    let mut word = Word::default();
    while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace() && *letter != ';') {
        match letter {
            '\'' => single_quoted(letters, &mut word),
            '"' => double_quoted(letters, &mut word),
            '$' => variable(letters, &mut word, false),
            '\\' => match letters.next() {
                Some('\n') | None => {}
                Some(letter) => word.push(letter),
            },
            letter => word.push(letter),
        }
    }
    (word.quoted || !word.parts.is_empty()).then_some(word)
}

fn single_quoted(letters: &mut Letters<'_>, word: &mut Word) {
    word.quoted = true;
    for letter in letters.take_while(|letter| *letter != '\'') {
        word.push(letter);
    }
}

fn double_quoted(letters: &mut Letters<'_>, word: &mut Word) {
    word.quoted = true;
    while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
        match letter {
            '$' => variable(letters, word, true),
            '\\' => match letters.next_if(|letter| matches!(letter, '"' | '\\' | '$' | '\n')) {
                Some('\n') => {}
                Some(letter) => word.push(letter),
                None => word.push('\\'),
            },
            letter => word.push(letter),
        }
    }
}

/// After a dollar: `name`, `{name}`, `?` or a number. A dollar before anything else stands for itself.
fn variable(letters: &mut Letters<'_>, word: &mut Word, quoted: bool) {
    let belongs = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    let mut name = String::new();
    if letters.next_if_eq(&'{').is_some() {
        name.extend(letters.take_while(|letter| *letter != '}'));
    } else if let Some(special) = letters.next_if(|letter| matches!(letter, '?' | '@' | '*' | '#')) {
        name.push(special);
    } else {
        while let Some(letter) = letters.next_if(belongs) {
            name.push(letter);
        }
    }
    match name.is_empty() {
        true => word.push('$'),
        false => word.parts.push(Part::Variable { name, quoted }),
    }
}
