//! Runs inside a lab host, started by its init, and serves [`sublet_lab::exec`].

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;

use sublet_lab::exec::{Secret, server};

fn main() -> Result<(), Box<dyn Error>> {
    let secret = Secret::read(Path::new(sublet_lab::inside::EXEC_SECRET))?;
    let listener = TcpListener::bind(("0.0.0.0", sublet_lab::inside::EXEC_PORT))?;
    Ok(server::serve(&listener, secret)?)
}
