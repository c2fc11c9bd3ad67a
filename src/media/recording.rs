//! A recording: what was received, as it was received.
//!
//! While a call lasts, its recording is a log of records: each the payload of a packet, with the
//! moment it belongs to. The log grows in [`Chunk`]s of whole records; whatever stands before a torn
//! end is good. When the call is over, [`store`] makes a file of it that others can play, without
//! encoding anew where that can be. [`Samples`] decodes it on the way.
//!
//! All times count ticks of [`TICK_RATE`](crate::media::audio::TICK_RATE).

mod log;
mod losses;
mod samples;
mod store;

use std::fmt;

pub use crate::media::recording::log::Reader;
pub use crate::media::recording::log::Record;
pub use crate::media::recording::log::Records;
pub use crate::media::recording::log::What;
pub use crate::media::recording::log::records;
pub use crate::media::recording::losses::Gap;
pub use crate::media::recording::losses::LossMap;
pub use crate::media::recording::samples::Samples;
pub use crate::media::recording::store::Format;
pub use crate::media::recording::store::Stored;
pub use crate::media::recording::store::store;
pub use crate::media::recording::store::ticks;

/// A piece of a recording, about as long as [`RecordLimits::chunk`](crate::media::RecordLimits); the
/// last may be shorter, and one that had to wait is longer.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whole records, following those of the chunk before.
    pub bytes: Vec<u8>,
    /// How long the recording is with it.
    pub ticks: u64,
}

impl fmt::Debug for Chunk {
    /// Without what was said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("bytes", &self.bytes.len())
            .field("ticks", &self.ticks)
            .finish()
    }
}

#[cfg(test)]
mod tests;
