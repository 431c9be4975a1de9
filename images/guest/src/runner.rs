//! The loop: wait until something moves, listen to the host, look after the jobs, tell the host.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use sublet_guest_protocol::FromHost;

use crate::cgroup::Cgroups;
use crate::jobs::Jobs;
use crate::link::{Backoff, Dial, Link, LinkError};
use crate::measure::Measuring;
use crate::output::BeyondEnd;
use crate::tunnels::Tunnels;

pub struct Runner<D> {
    link: Link<D>,
    jobs: Jobs,
    tunnels: Tunnels,
    measuring: Measuring,
}

impl<D: Dial> Runner<D> {
    /// `nonce` proves to the host whose boot this is; without `cgroups`, jobs are ended by process group.
    pub fn new(dial: D, nonce: String, backoff: Backoff, cgroups: Option<Cgroups>) -> Self {
        let measuring = Measuring::of_boot(&nonce);
        Self {
            link: Link::new(dial, nonce, backoff),
            jobs: Jobs::new(cgroups),
            tunnels: Tunnels::default(),
            measuring,
        }
    }

    pub fn run(mut self) -> ! {
        loop {
            self.turn();
        }
    }

    /// One round of the loop: returns after something has moved and was looked after.
    pub fn turn(&mut self) {
        self.wait();
        let now = Instant::now();
        self.hang_up_where_broken(Self::listen, now);
        self.jobs.advance(now);
        self.tunnels.advance(now, |tunnel| self.link.dial_for(tunnel));
        self.hang_up_where_broken(Self::tell, now);
    }

    fn hang_up_where_broken(
        &mut self,
        exchange: fn(&mut Self, Instant) -> Result<(), LinkError>,
        now: Instant,
    ) {
        if let Err(error) = exchange(self, now) {
            self.link.hang_up(&error, now);
        }
    }

    /// Until a descriptor is ready or a deadline has come. Whatever else wakes it does no harm.
    fn wait(&self) {
        let mut watched: Vec<PollFd<'_>> = Vec::new();
        self.link.watch(&mut watched);
        self.jobs.watch(&mut watched);
        self.tunnels.watch(&mut watched);
        let deadlines = [
            self.link.deadline(),
            self.jobs.deadline(),
            self.tunnels.deadline(),
            self.measuring.deadline().filter(|_| self.link.is_open()),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        let _ = poll(&mut watched, timeout.as_ref());
    }

    fn listen(&mut self, now: Instant) -> Result<(), LinkError> {
        if let Some(resume) = self.link.open(now, || self.jobs.progress())? {
            self.jobs.resume(&resume).map_err(claims_too_much)?;
        }
        while let Some(order) = self.link.receive()? {
            self.obey(order)?;
        }
        Ok(())
    }

    fn obey(&mut self, order: FromHost) -> Result<(), LinkError> {
        match order {
            FromHost::Start(spec) => self.jobs.start(spec).map_or(Ok(()), |answer| self.link.send(&answer)),
            FromHost::Acknowledge { job, stream, offset } => {
                self.jobs.acknowledge(job, stream, offset).map_err(claims_too_much)
            }
            FromHost::Cancel { job } => {
                self.jobs.cancel(job);
                Ok(())
            }
            FromHost::Forget { job } => {
                self.jobs.forget(job);
                Ok(())
            }
            FromHost::OpenTunnel { tunnel, port } => {
                self.tunnels.open(tunnel, port, Instant::now());
                Ok(())
            }
            FromHost::Beat { every_ms } => {
                self.link.beat_every(Duration::from_millis(every_ms.into()));
                Ok(())
            }
            FromHost::Measure { every_ms } => {
                self.measuring.every(Duration::from_millis(every_ms.into()), Instant::now());
                Ok(())
            }
            FromHost::Refused { reason } => Err(LinkError::Refused(reason)),
            FromHost::Welcome { .. } => Err(LinkError::Misbehaved("it welcomed the runner twice".into())),
        }
    }

    /// One message at a time leaves, so that only what was not said yet takes up memory.
    fn tell(&mut self, now: Instant) -> Result<(), LinkError> {
        while self.link.is_ready()? {
            let message = self.tunnels.next_message().or_else(|| self.jobs.next_message());
            let Some(message) = message else { break };
            self.link.send(&message)?;
        }
        if self.link.is_ready()?
            && let Some(measured) = self.measuring.next_message(now)
        {
            self.link.send(&measured)?;
        }
        self.link.beat(now)
    }
}

fn claims_too_much(error: BeyondEnd) -> LinkError {
    LinkError::Misbehaved(error.to_string())
}
