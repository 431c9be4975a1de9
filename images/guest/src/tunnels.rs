//! Tunnels: the host asks for a port of the guest's loopback; the runner connects to it, dials the host anew, and joins the
//! two.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};
use sublet_guest_protocol::{FromGuest, TUNNELS_LIMIT, TunnelId, TunnelRefusal, encode};

use crate::connection::is_established;
use crate::log::say;
use crate::splice::Splice;

/// How long a connection of a tunnel's may take to come about, to the port as to the host.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most refusals that wait to be said; of more the host hears nothing, which is an answer too.
const REFUSALS_MAX: usize = 2 * TUNNELS_LIMIT;
/// Where a port is looked for, in this order.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

#[derive(Default)]
pub(crate) struct Tunnels {
    open: Vec<Tunnel>,
    refusals: VecDeque<FromGuest>,
}

struct Tunnel {
    id: TunnelId,
    port: u16,
    stage: Stage,
}

enum Stage {
    /// To the port, at the loopback of this place in [`LOOPBACKS`].
    Connecting {
        place: usize,
        socket: OwnedFd,
        until: Instant,
    },
    Dialing {
        near: OwnedFd,
        far: OwnedFd,
        first: Vec<u8>,
        until: Instant,
    },
    Joined(Splice),
    Over,
}

impl Tunnels {
    pub(crate) fn open(&mut self, id: TunnelId, port: u16, now: Instant) {
        if self.open.len() >= TUNNELS_LIMIT {
            return self.refuse(id, TunnelRefusal::TooMany);
        }
        match connect_from(0, port, now) {
            Ok(stage) => self.open.push(Tunnel { id, port, stage }),
            Err(why) => self.refuse(id, why),
        }
    }

    fn refuse(&mut self, tunnel: TunnelId, why: TunnelRefusal) {
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push_back(FromGuest::TunnelRefused { tunnel, why });
        }
    }

    /// Takes each as far as it goes; `dial` makes a connection to the host and says how it is greeted.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        mut dial: impl FnMut(TunnelId) -> io::Result<(OwnedFd, FromGuest)>,
    ) {
        for mut tunnel in std::mem::take(&mut self.open) {
            match tunnel.advance(now, &mut dial) {
                Ok(()) if matches!(tunnel.stage, Stage::Over) => {}
                Ok(()) => self.open.push(tunnel),
                Err(why) => self.refuse(tunnel.id, why),
            }
        }
    }

    pub(crate) fn next_message(&mut self) -> Option<FromGuest> {
        self.refusals.pop_front()
    }

    pub(crate) fn watch<'a>(&'a self, watched: &mut Vec<PollFd<'a>>) {
        for tunnel in &self.open {
            match &tunnel.stage {
                Stage::Connecting { socket, .. } | Stage::Dialing { far: socket, .. } => {
                    watched.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT));
                }
                Stage::Joined(splice) => splice.watch(watched),
                Stage::Over => {}
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.open.iter().filter_map(Tunnel::deadline).min()
    }
}

impl Tunnel {
    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Connecting { until, .. } | Stage::Dialing { until, .. } => Some(*until),
            Stage::Joined(_) | Stage::Over => None,
        }
    }

    fn advance(
        &mut self,
        now: Instant,
        dial: &mut impl FnMut(TunnelId) -> io::Result<(OwnedFd, FromGuest)>,
    ) -> Result<(), TunnelRefusal> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Connecting { place, socket, until } => match is_established(&socket) {
                Ok(true) => dialled(socket, self.id, now, dial)?,
                Ok(false) if now >= until => return Err(TunnelRefusal::PortSilent),
                Ok(false) => Stage::Connecting { place, socket, until },
                Err(error) => connect_after(place, &error, self.port, now)?,
            },
            Stage::Dialing { near, far, first, until } => match is_established(&far) {
                Ok(true) => joined(Splice::new(near, far, first)),
                Ok(false) if now < until => Stage::Dialing { near, far, first, until },
                _ => return Err(TunnelRefusal::Failed),
            },
            Stage::Joined(splice) => joined(splice),
            Stage::Over => Stage::Over,
        };
        Ok(())
    }
}

fn joined(mut splice: Splice) -> Stage {
    match splice.advance() {
        Ok(false) => Stage::Joined(splice),
        // An error of either side is the end of both: closing tells the other.
        Ok(true) | Err(_) => Stage::Over,
    }
}

fn dialled(
    near: OwnedFd,
    id: TunnelId,
    now: Instant,
    dial: &mut impl FnMut(TunnelId) -> io::Result<(OwnedFd, FromGuest)>,
) -> Result<Stage, TunnelRefusal> {
    let (far, greeting) = dial(id).map_err(failed)?;
    rustix::io::ioctl_fionbio(&far, true).map_err(|error| failed(error.into()))?;
    let first = encode(&greeting).map_err(|_| TunnelRefusal::Failed)?;
    Ok(Stage::Dialing { near, far, first, until: now + PATIENCE })
}

/// Nobody takes the connection at one loopback: perhaps at the next.
fn connect_after(place: usize, error: &io::Error, port: u16, now: Instant) -> Result<Stage, TunnelRefusal> {
    match connect_from(place + 1, port, now) {
        // What the first one said counts: IPv6 may be missing.
        Err(_) if error.kind() == io::ErrorKind::ConnectionRefused => Err(TunnelRefusal::PortClosed),
        otherwise => otherwise,
    }
}

fn connect_from(place: usize, port: u16, now: Instant) -> Result<Stage, TunnelRefusal> {
    let Some(loopback) = LOOPBACKS.get(place) else { return Err(TunnelRefusal::PortClosed) };
    match connect_to(SocketAddr::new(*loopback, port)) {
        Ok(socket) => Ok(Stage::Connecting { place, socket, until: now + PATIENCE }),
        Err(Errno::CONNREFUSED) => connect_after(place, &Errno::CONNREFUSED.into(), port, now),
        Err(error) => Err(failed(error.into())),
    }
}

/// A socket that connects.
fn connect_to(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // What is typed is not kept back.
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn failed(error: io::Error) -> TunnelRefusal {
    say(format_args!("a tunnel could not be opened: {error}"));
    TunnelRefusal::Failed
}
