//! Wall clocks. They only stamp commands before those are logged; nothing waits for one, and no decision reads one.

use std::fmt;

/// Tells the time of day. Injected, so that a simulation and a test decide what a member believes.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970, UTC. May jump in both directions.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // The one reader of the wall clock.
    fn now_ms(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.map_or(0, |elapsed| elapsed.as_millis() as u64)
    }
}
