//! A receipt: what a host states, signed, of what was set aside for a lease and what of it was delivered (patent claims 2,
//! 4, 8, 9).
//!
//! It is a chain of segments, oldest first. A segment is a text, JSON of one [`segment::Segment`], and the host's signature
//! over exactly that text, so that nothing depends on how JSON is written. Each names the SHA-256 of the text before it:
//! none can be changed, taken out or put in by whoever lacks the host's key. [`chain`] checks all of that, [`credit`] is
//! what a borrower gets back for what was not delivered. What a receipt does not prove is in `docs/threat-model.md`.

pub mod chain;
pub mod credit;
pub mod guest;
pub mod key;
pub mod segment;
