//! Whether the guest in a partition is heard. One that is not is reported, and goes on: it may come back, and ending it is
//! its borrower's to decide (`docs/adr/0027-a-guest-that-hangs-is-reported.md`).
//!
//! Silence is counted in steps, of which each begins when the one before was looked at. An agent that got no CPU for a
//! while, on a busy host or one that is a guest itself, so finds one step missed and not many.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::{
    driver::Driver,
    machine::{Boot, Built},
};
use crate::{
    agent::config::Guests,
    api::agent::{GuestHung, HungHow},
};

/// Steps of silence after which a guest that was heard before is reported.
const STEPS: u32 = 3;

/// How a guest that runs is listened to.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Tells which guest.
    cid: u32,
    /// When it was first listened to.
    pub(super) since: Instant,
    step: Duration,
    /// When the step is over.
    pub(super) due: Instant,
    missed: u32,
    allowed: u32,
}

impl Pulse {
    fn new(cid: u32, greeted: bool, guests: &Guests, now: Instant) -> Self {
        let step = guests.beat_every();
        let mut pulse = Self { cid, since: now, step, due: now + step, missed: 0, allowed: STEPS };
        if !greeted {
            let steps = guests.call_within().as_nanos().div_ceil(step.as_nanos());
            pulse.allowed = u32::try_from(steps).unwrap_or(u32::MAX);
        }
        pulse
    }

    /// A step is over; the length of a silence that is too long from now on.
    fn step(&mut self, heard: bool, now: Instant) -> Option<Duration> {
        self.due = now + self.step;
        self.missed = if heard { 0 } else { self.missed.saturating_add(1) };
        (self.missed == self.allowed).then(|| self.step.saturating_mul(self.missed))
    }

    fn heard(&mut self) {
        (self.missed, self.allowed) = (0, STEPS);
    }
}

impl Guests {
    /// How often a guest's runner is to be heard: as often as a step of silence is counted.
    pub(super) fn beat_every(&self) -> Duration {
        Duration::from_secs(self.silent_after_seconds) / STEPS
    }

    fn call_within(&self) -> Duration {
        Duration::from_secs(self.call_within_seconds)
    }
}

impl Driver {
    /// Listens to the guest that runs, and to no other. What was asked of another is not asked of this one.
    pub(super) fn follow_pulse(&mut self) {
        let running =
            self.row.machine.built.as_ref().and_then(|built| Some((built.cid, built.boot.as_ref()?)));
        let Some((cid, boot)) = running else {
            if self.pulse.take().is_some() {
                self.tunnels.forget();
            }
            return;
        };
        if self.pulse.as_ref().is_none_or(|pulse| pulse.cid != cid) {
            self.jobs.signals().was_heard();
            self.tunnels.forget();
            let now = Instant::now();
            self.pulse = Some(Pulse::new(cid, boot.greeted, &self.services.config.guests, now));
        }
    }

    /// A step is over.
    pub(super) async fn feel_pulse(&mut self) {
        let Some(boot) = self.row.machine.boot().cloned() else { return };
        let said_something = self.jobs.signals().was_heard() || self.has_runner_without_beats();
        let heard = boot.greeted && said_something;
        let silence = self.pulse.as_mut().and_then(|pulse| pulse.step(heard, Instant::now()));
        if heard {
            return self.revived().await;
        }
        let Some(silence) = silence else { return };
        let how = if boot.greeted { HungHow::NotHeard } else { HungHow::NotCalled };
        let silence = SignedDuration::try_from(silence).unwrap_or(SignedDuration::MAX);
        let now = self.services.clock.now();
        let since = now.saturating_sub(silence).unwrap_or(now);
        tracing::warn!(partition = %self.row.id, ?how, %since, "guest_hung: the guest is not heard; it goes on");
        self.note_hung(Some(GuestHung { since, how })).await;
    }

    /// The guest is heard, again or for the first time.
    pub(super) async fn revived(&mut self) {
        let Some(boot) = self.row.machine.boot().filter(|boot| boot.greeted) else { return };
        if let Some(pulse) = &mut self.pulse {
            pulse.heard();
        }
        if let Some(GuestHung { since, .. }) = boot.hung {
            tracing::info!(partition = %self.row.id, %since, "the guest that was not heard is heard again");
            self.note_hung(None).await;
        }
    }

    async fn note_hung(&mut self, hung: Option<GuestHung>) {
        let Some(built) = self.row.machine.built.clone() else { return };
        let boot = built.boot.clone().map(|boot| Boot { hung, ..boot });
        if let Err(error) = self.build(Some(Built { boot, ..built })).await {
            self.complain("it could not be stored whether the guest is heard", &error);
        }
        // Whoever follows a job is told.
        self.jobs.signals().output_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUESTS: Guests = Guests { silent_after_seconds: 30, call_within_seconds: 95 };

    fn pulse(greeted: bool) -> Pulse {
        Pulse::new(3, greeted, &GUESTS, Instant::now())
    }

    /// The step, counted from 1, after which silence is too long, and how long it was.
    fn silent(pulse: &mut Pulse) -> (u32, Duration) {
        let over = |step| Some((step, pulse.step(false, Instant::now())?));
        (1..100).find_map(over).expect("a silence that is too long")
    }

    #[test]
    fn a_guest_that_was_heard_before_is_reported_after_the_time_that_is_configured() {
        assert_eq!(silent(&mut pulse(true)), (3, Duration::from_secs(30)));
    }

    #[test]
    fn a_guest_has_its_own_time_until_it_calls_and_the_shorter_one_from_then_on() {
        assert_eq!(silent(&mut pulse(false)), (10, Duration::from_secs(100)));
        let mut called = pulse(false);
        called.heard();
        assert_eq!(silent(&mut called), (3, Duration::from_secs(30)));
    }

    #[test]
    fn silence_is_reported_once_and_counted_anew_after_a_beat() {
        let mut pulse = pulse(true);
        silent(&mut pulse);
        assert_eq!(pulse.step(false, Instant::now()), None);
        assert_eq!(pulse.step(true, Instant::now()), None);
        assert_eq!(silent(&mut pulse).0, 3);
    }

    #[test]
    fn an_agent_that_stood_still_finds_one_step_missed() {
        let mut pulse = pulse(true);
        let late = pulse.due + Duration::from_secs(600);
        assert_eq!(pulse.step(false, late), None);
        assert_eq!(pulse.due, late + Duration::from_secs(10));
    }
}
