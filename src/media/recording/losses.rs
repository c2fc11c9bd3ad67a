//! What never came.

/// Gaps that are kept; whoever lost more knows enough by the sum.
const MOST: usize = 200;

/// A stretch of a recording, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When it begins, since the recording began.
    pub at: u64,
    /// How long it is.
    pub ticks: u64,
}

/// Where packets were lost: what was said then, nobody knows. A pause in which the sender sent
/// nothing is no loss.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LossMap {
    gaps: Vec<Gap>,
    ticks: u64,
}

impl LossMap {
    /// The gaps, in order; the first 200 of them.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Ticks that were lost in all.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Adds a gap that lies after all others.
    pub(super) fn add(&mut self, gap: Gap) {
        self.ticks += gap.ticks;
        if self.gaps.len() < MOST {
            self.gaps.push(gap);
        }
    }
}
