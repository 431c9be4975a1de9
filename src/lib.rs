//! Sublet lends out parts of real computers.
#![forbid(unsafe_code)]
