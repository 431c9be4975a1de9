//! How fast something may go: token buckets, pure but for the time that they are told.
//!
//! What something costs is known only once it has begun, so a bucket lets one more begin while it holds a whole token
//! and then goes into debt for what it cost. Over any time `t` no more goes through than `burst + per_second × t`, and
//! one overdraft of the costliest.

use sublet_vmm_protocol::RateLimit;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A bucket that fills by `per_second` tokens a second up to `burst`. Moments are nanoseconds on any clock that never
/// goes back.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_second: i128,
    /// Both in tokens a billion times as small, so that every nanosecond counts.
    burst_nanos: i128,
    level_nanos: i128,
    filled_at_ns: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(limit: RateLimit, now_ns: u64) -> Self {
        let burst_nanos = i128::from(limit.burst.max(1)) * NANOS_PER_SECOND;
        Self {
            per_second: i128::from(limit.per_second.max(1)),
            burst_nanos,
            level_nanos: burst_nanos,
            filled_at_ns: now_ns,
        }
    }

    /// How long to wait, in nanoseconds, before the next may begin; 0: it may begin now.
    pub fn wait_ns(&mut self, now_ns: u64) -> u64 {
        self.fill(now_ns);
        let missing = NANOS_PER_SECOND - self.level_nanos;
        if missing <= 0 {
            return 0;
        }
        let wait = (missing + self.per_second - 1) / self.per_second;
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// Something has begun that costs this many tokens.
    pub fn take(&mut self, tokens: u64) {
        self.level_nanos = self.level_nanos.saturating_sub(i128::from(tokens) * NANOS_PER_SECOND);
    }

    fn fill(&mut self, now_ns: u64) {
        let elapsed = i128::from(now_ns.saturating_sub(self.filled_at_ns));
        self.filled_at_ns = self.filled_at_ns.max(now_ns);
        let gained = elapsed.saturating_mul(self.per_second);
        self.level_nanos = self.level_nanos.saturating_add(gained).min(self.burst_nanos);
    }
}

/// Limits on operations and on bytes, either of which may be none.
#[derive(Debug, Clone, Default)]
pub struct RateLimiter {
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

impl RateLimiter {
    pub fn new(operations: Option<RateLimit>, bytes: Option<RateLimit>, now_ns: u64) -> Self {
        let bucket = |limit: Option<RateLimit>| limit.map(|limit| TokenBucket::new(limit, now_ns));
        Self { operations: bucket(operations), bytes: bucket(bytes) }
    }

    /// How long to wait, in nanoseconds, before the next operation may begin; 0: it may begin now. The clock is read
    /// only where there is a limit.
    pub fn wait_ns(&mut self, now_ns: impl FnOnce() -> u64) -> u64 {
        if self.operations.is_none() && self.bytes.is_none() {
            return 0;
        }
        let now_ns = now_ns();
        let both = [&mut self.operations, &mut self.bytes].into_iter().flatten();
        both.map(|bucket| bucket.wait_ns(now_ns)).max().unwrap_or(0)
    }

    /// One operation has begun that moves this many bytes.
    pub fn take(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.operations {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn limit(per_second: u64, burst: u64) -> RateLimit {
        RateLimit { per_second, burst }
    }

    #[test]
    fn a_burst_goes_through_at_once_and_what_follows_at_the_rate() {
        let mut bucket = TokenBucket::new(limit(100, 10), 5);
        for _ in 0..10 {
            assert_eq!(bucket.wait_ns(5), 0);
            bucket.take(1);
        }
        assert_eq!(bucket.wait_ns(5), SECOND_NS / 100);
        assert_eq!(bucket.wait_ns(5 + SECOND_NS / 100), 0);
    }

    #[test]
    fn a_debt_is_paid_off_before_the_next_begins() {
        let mut bucket = TokenBucket::new(limit(1000, 1000), 0);
        bucket.take(3000);
        assert_eq!(bucket.wait_ns(0), 2_001 * SECOND_NS / 1000);
    }

    #[test]
    fn without_limits_nothing_waits() {
        let mut limiter = RateLimiter::default();
        limiter.take(u64::MAX);
        assert_eq!(limiter.wait_ns(|| unreachable!("it needs no clock")), 0);
    }

    #[test]
    fn the_stricter_of_two_limits_holds() {
        let mut limiter = RateLimiter::new(Some(limit(1, 1)), Some(limit(1 << 30, 1 << 30)), 0);
        limiter.take(512);
        assert_eq!(limiter.wait_ns(|| 0), SECOND_NS);
    }

    proptest! {
        /// A greedy user over virtual time: it starts something whenever it may.
        #[test]
        fn no_more_goes_through_than_burst_and_rate_allow(
            per_second in 1u64..1 << 40,
            burst in 1u64..1 << 40,
            costs in vec(1u64..1 << 26, 1..60),
            idle in vec(0u64..SECOND_NS, 60),
        ) {
            let mut bucket = TokenBucket::new(limit(per_second, burst), 0);
            let (mut now, mut spent) = (0u64, 0u128);
            for (cost, idle) in costs.into_iter().zip(idle) {
                now = now.saturating_add(bucket.wait_ns(now));
                prop_assert_eq!(bucket.wait_ns(now), 0, "a wait that is over is over");
                bucket.take(cost);
                let last = u128::from(cost);
                spent += last;
                now = now.saturating_add(idle);
                let allowed = u128::from(burst) + u128::from(now) * u128::from(per_second) / u128::from(SECOND_NS);
                prop_assert!(spent <= allowed + last, "{} of {}", spent, allowed);
            }
        }

        #[test]
        fn a_user_that_always_wants_gets_the_rate(per_second in 1u64..100_000, cost in 1u64..10_000) {
            let mut bucket = TokenBucket::new(limit(per_second, 1), 0);
            let mut now = 0u64;
            for _ in 0..50 {
                now += bucket.wait_ns(now);
                bucket.take(cost);
            }
            // 50 costs, of which the last is still owed, each nanosecond rounded up.
            let needed = 49 * u128::from(cost) * u128::from(SECOND_NS) / u128::from(per_second);
            prop_assert!(u128::from(now) <= needed + 50, "{} for {}", now, needed);
        }

        #[test]
        fn a_clock_that_stands_or_jumps_breaks_nothing(moments in vec(any::<u64>(), 1..50), cost in any::<u64>()) {
            let mut bucket = TokenBucket::new(limit(u64::MAX, u64::MAX), 0);
            for now in moments {
                bucket.wait_ns(now);
                bucket.take(cost);
            }
        }
    }
}
