//! `grub.cfg` as `grub-mkconfig` writes it: variables, `if`, `search`, menu entries and submenus, other files that are
//! read in turn. Not a shell: there are no loops, and functions do nothing.
//!
//! ```text
//! text ──lexer──▶ tokens ──script──▶ statements ──evaluate──▶ a menu; an entry's body ──evaluate──▶ kernel, initrds
//! ```

mod commands;
mod condition;
mod evaluate;
mod lexer;
mod script;

pub use self::evaluate::{Disks, Start, starts};

#[cfg(test)]
mod tests;
