//! `sublet-vmm`: reads a machine's configuration from standard input, leaves the caller's process tree, prepares
//! the machine in a jail and serves its control socket. Started as root; the machine does not run as root.
//!
//! Ends with 0 when the machine is prepared and its socket is there; the machine then lives on in a process of its
//! own. Ends with 1, having said why on standard error, when there is no machine.

use std::{error::Error, io, process::ExitCode};

use sublet_vmm::{
    builder::{self, BuildError},
    clock, config,
    control::Listener,
    daemon::{self, DetachError, Readiness, Side, with_causes},
    event_loop::{EventLoop, EventLoopError},
    resources::{ResourceError, Resources},
    sandbox::{self, Lists, SandboxError, seccomp::FilterError},
    socket::ListenError,
    threads,
};
use sublet_vmm_protocol::MachineConfig;
use thiserror::Error;

#[derive(Debug, Error)]
enum PrepareError {
    #[error("cannot run in the background")]
    Detach(#[source] DetachError),
    #[error("cannot take what the machine needs of its host")]
    Resources(#[source] ResourceError),
    #[error("cannot make control_socket")]
    Listen(#[source] ListenError),
    #[error("cannot shut the machine in")]
    Sandbox(#[source] SandboxError),
    #[error("cannot keep threads to the system calls that they need")]
    Filter(#[source] FilterError),
    #[error("cannot build the machine")]
    Build(#[source] BuildError),
    #[error("cannot serve the machine")]
    EventLoop(#[source] EventLoopError),
}

fn main() -> ExitCode {
    threads::share_one_heap();
    clock::make_ready();
    let config = match config::read(io::stdin().lock()) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    match daemon::detach() {
        Ok(Side::Launcher(launcher)) => launcher.wait(),
        Ok(Side::Daemon(readiness)) => serve(&config, readiness),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &dyn Error) -> ExitCode {
    eprintln!("sublet-vmm: {}", with_causes(error));
    ExitCode::FAILURE
}

fn serve(config: &MachineConfig, readiness: Readiness) -> ExitCode {
    let prepared = prepare(config, &readiness);
    match prepared {
        Ok(mut event_loop) => {
            readiness.ready();
            // Without its loop the machine cannot be controlled or ended on time, so it ends here.
            if event_loop.run().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            readiness.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn prepare(config: &MachineConfig, readiness: &Readiness) -> Result<EventLoop, PrepareError> {
    readiness.leave().map_err(PrepareError::Detach)?;
    let resources = Resources::take(config).map_err(PrepareError::Resources)?;
    let listener = Listener::bind(&config.control_socket).map_err(PrepareError::Listen)?;
    let lists = Lists::compile().map_err(PrepareError::Filter)?;
    sandbox::enclose(config.user, &resources.limits(config)).map_err(PrepareError::Sandbox)?;
    let machine = builder::build(config, resources, &lists).map_err(PrepareError::Build)?;
    let event_loop = EventLoop::new(config.name.clone(), machine, listener);
    lists.event_loop.install().map_err(PrepareError::Filter)?;
    event_loop.map_err(PrepareError::EventLoop)
}
