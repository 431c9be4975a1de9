//! Runs inside a lab host, started by its init, and serves [`sublet_lab::exec`]; as `sublet-lab-host keep-machine`
//! it keeps a virtual machine open, as `sublet-lab-host bench TASK` it measures, as `sublet-lab-host disk FILE`, in a
//! guest as well, it tells how fast a disk is, as `sublet-lab-host zero FILE FROM BYTES`, in a guest, it has the disk
//! zero a range by itself, and as `sublet-lab-host call THREAD CALL` it has a thread of another process make a system call.

use std::env;
use std::error::Error;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use kvm_ioctls::Kvm;
use rustix::fs::{FallocateFlags, fallocate};
use sublet_lab::bench::inside::{disk, perform};
use sublet_lab::exec::{Secret, server};
use sublet_lab::foreign_call::make_call;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["keep-machine"] => keep_machine(),
        ["bench", task] => bench(task),
        ["disk", file] => {
            println!("{}", serde_json::to_string(&disk::measure(Path::new(file))?)?);
            Ok(())
        }
        ["zero", file, from, bytes] => zero(Path::new(file), from.parse()?, bytes.parse()?),
        ["call", thread, call] => {
            println!("{}", make_call(thread.parse()?, call.parse()?)?);
            Ok(())
        }
        _ => serve(),
    }
}

/// Performs one task of a benchmark, and prints what was measured.
fn bench(task: &str) -> Result<(), Box<dyn Error>> {
    let reading = perform(&serde_json::from_str(task)?)?;
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}

/// Of a block device this makes one request to write zeroes, or as many as it takes, and no writes: where the device
/// cannot do that, it fails (Linux, `blkdev_fallocate`).
fn zero(file: &Path, from: u64, bytes: u64) -> Result<(), Box<dyn Error>> {
    let file = File::options().write(true).open(file)?;
    Ok(fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, bytes)?)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let secret = Secret::read(Path::new(sublet_lab::inside::EXEC_SECRET))?;
    let listener = TcpListener::bind(("0.0.0.0", sublet_lab::inside::EXEC_PORT))?;
    Ok(server::serve(&listener, secret)?)
}

/// Keeps a virtual machine with one CPU that never runs, says so, and never ends. The kernel patches its scheduler when
/// the first machine is made and when the last one is gone, and KVM each time that no CPU of a guest has its APIC
/// switched off any more, or one has again, as one has that was never run; an emulated CPU may fall over that (ADR 11).
/// With this machine both happen once, before anything else runs.
fn keep_machine() -> Result<(), Box<dyn Error>> {
    let machine = Kvm::new()?.create_vm()?;
    machine.create_irq_chip()?;
    let _cpu = machine.create_vcpu(0)?;
    println!("kept");
    loop {
        thread::park();
    }
}
