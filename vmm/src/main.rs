//! `sublet-vmm`: reads a machine's configuration from standard input, leaves the caller's process tree, prepares
//! the machine and serves its control socket.
//!
//! Ends with 0 when the machine is prepared and its socket is there; the machine then lives on in a process of its
//! own. Ends with 1, having said why on standard error, when there is no machine.

use std::{error::Error, io, process::ExitCode};

use sublet_vmm::{
    builder::{self, BuildError},
    config,
    control::{ListenError, Listener},
    daemon::{self, DetachError, Readiness, Side, with_causes},
    event_loop::{EventLoop, EventLoopError},
};
use sublet_vmm_protocol::MachineConfig;
use thiserror::Error;

#[derive(Debug, Error)]
enum PrepareError {
    #[error("cannot run in the background")]
    Detach(#[source] DetachError),
    #[error("cannot build the machine")]
    Build(#[source] BuildError),
    #[error("cannot be controlled")]
    Listen(#[source] ListenError),
    #[error("cannot serve the machine")]
    EventLoop(#[source] EventLoopError),
}

fn main() -> ExitCode {
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
    let machine = builder::build(config).map_err(PrepareError::Build)?;
    let listener = Listener::bind(&config.control_socket).map_err(PrepareError::Listen)?;
    EventLoop::new(config.name.clone(), machine, listener).map_err(PrepareError::EventLoop)
}
