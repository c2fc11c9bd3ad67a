//! Time in nanoseconds of the system's clock, which is also what the kernel stamps datagrams with.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970.
pub type Nanos = i64;

pub const MILLI: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MILLI;

pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * SECOND + time.tv_nsec
}

/// A number of seconds.
pub fn seconds(seconds: f64) -> Nanos {
    (seconds * SECOND as f64) as Nanos
}
