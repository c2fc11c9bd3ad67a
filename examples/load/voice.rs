//! What the callers say: noise in syllables, for each call another piece of one long pattern, so that every sample
//! of a recording can be told to be that call's, and at its place.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Samples of 20 ms at 8 kHz.
pub const FRAME: usize = 160;
/// Length of the pattern: beyond the longest message, and no call begins where another does.
const FRAMES: usize = 1 << 16;
/// Begins of two calls are so many frames apart: no factor of `FRAMES`.
const STEP: usize = 7919;
/// So many samples tell a call.
const KEY: usize = 16;
/// 20 ms of quiet.
pub const QUIET: [u8; FRAME] = [0xFF; FRAME];

pub struct Voice {
    pattern: Vec<u8>,
}

/// What was found in the recordings.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Recordings whose every sample is there, at its place, and nothing else.
    pub whole: usize,
    /// Recordings that are not.
    pub damaged: Vec<String>,
    /// Calls that left no recording.
    pub missing: usize,
    /// Samples that are right, in all of them.
    pub samples: u64,
    /// The longest pause before the first word, in samples.
    pub longest_lead: usize,
}

impl Voice {
    pub fn new() -> Self {
        let mut chance = StdRng::seed_from_u64(1);
        let mut pattern = Vec::with_capacity(FRAMES * FRAME);
        for frame in 0..FRAMES {
            // 300 ms loud, 100 ms quiet: syllables, not a hum that is taken for background.
            let segment: u8 = if frame % 20 < 15 { 5 } else { 2 };
            for _ in 0..FRAME {
                let random: u8 = chance.random();
                // Sign and mantissa by chance, inverted as the law says; never the two codes of zero.
                pattern.push(!((random & 0x8F) | segment << 4));
            }
        }
        Self { pattern }
    }

    /// Frame `nth` of what call `call` says.
    pub fn frame(&self, call: u32, nth: usize) -> &[u8] {
        let frame = (call as usize * STEP + nth) % FRAMES;
        &self.pattern[frame * FRAME..(frame + 1) * FRAME]
    }

    fn samples(&self, call: u32, frames: usize) -> impl Iterator<Item = i16> {
        (0..frames).flat_map(move |nth| self.frame(call, nth).iter().copied().map(decode))
    }

    /// Looks for what each call has said, `(call, frames)`, in the recordings below `dir`.
    pub fn judge(&self, dir: &Path, said: &[(u32, usize)]) -> anyhow::Result<Verdict> {
        let mut expected: HashMap<Vec<i16>, (u32, usize)> = HashMap::new();
        for &(call, frames) in said {
            let key = self.samples(call, frames).take(KEY).collect();
            expected.insert(key, (call, frames));
        }
        let mut verdict = Verdict::default();
        let mut files = Vec::new();
        files_below(dir, &mut files)?;
        for file in files {
            let recorded = read(&file)?;
            let lead = recorded.iter().take_while(|sample| **sample == 0).count();
            let spoken = &recorded[lead..];
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Some((call, frames)) = spoken.get(..KEY).and_then(|key| expected.remove(key))
            else {
                verdict
                    .damaged
                    .push(format!("{name}: begins as no call did"));
                continue;
            };
            verdict.longest_lead = verdict.longest_lead.max(lead);
            let right = self
                .samples(call, frames)
                .zip(spoken)
                .take_while(|(said, heard)| said == *heard)
                .count();
            verdict.samples += right as u64;
            if right == frames * FRAME && spoken.len() == right {
                verdict.whole += 1;
            } else {
                let (said, heard) = (frames * FRAME, spoken.len());
                verdict.damaged.push(format!(
                    "{name}: {right} samples right of {said} said and {heard} recorded"
                ));
            }
        }
        verdict.missing = expected.len();
        Ok(verdict)
    }
}

/// µ-law (ITU-T G.711).
fn decode(byte: u8) -> i16 {
    let bits = !byte;
    let magnitude = ((i16::from(bits & 0x0F) << 3) + 0x84) << (bits >> 4 & 7);
    let value = magnitude - 0x84;
    if bits & 0x80 == 0 { value } else { -value }
}

/// The samples of a recording, which is kept as it was received: µ-law in a WAV.
fn read(path: &Path) -> anyhow::Result<Vec<i16>> {
    const MU_LAW: [u8; 2] = [7, 0];
    let file = fs::read(path)?;
    let mut rest = file.get(12..).unwrap_or_default();
    while let Some((&[a, b, c, d, s0, s1, s2, s3], after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let content = after.get(..length).unwrap_or(after);
        match &[a, b, c, d] {
            b"fmt " if !content.starts_with(&MU_LAW) => break,
            b"data" => return Ok(content.iter().copied().map(decode).collect()),
            _ => {}
        }
        let padded = length.next_multiple_of(2);
        rest = after.get(padded..).unwrap_or_default();
    }
    bail!("{} is no WAV of \u{3bc}-law", path.display())
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "wav") {
            files.push(path);
        }
    }
    Ok(())
}
