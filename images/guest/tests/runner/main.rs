//! A whole runner with real processes, against a host played by the test.

#![cfg(test)]

mod connections;
mod host;
mod jobs;
mod tunnels;
