//! Runs inside a lab host, started by its init, and serves [`sublet_lab::exec`].

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;

use kvm_ioctls::{Kvm, VmFd};
use sublet_lab::exec::{Secret, server};

fn main() -> Result<(), Box<dyn Error>> {
    let _machine = empty_machine()?;
    let secret = Secret::read(Path::new(sublet_lab::inside::EXEC_SECRET))?;
    let listener = TcpListener::bind(("0.0.0.0", sublet_lab::inside::EXEC_PORT))?;
    Ok(server::serve(&listener, secret)?)
}

/// A virtual machine with nothing in it, where the host has KVM. The kernel patches its scheduler when the first
/// machine is made and when the last one is gone, and an emulated CPU may fall over that (ADR 11): with this one
/// it happens once, before anything else runs.
fn empty_machine() -> Result<Option<VmFd>, Box<dyn Error>> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(None);
    }
    Ok(Some(Kvm::new()?.create_vm()?))
}
