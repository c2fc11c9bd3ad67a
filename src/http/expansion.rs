//! A stored file of G.711 as the WAV of linear samples that everything plays: byte for byte by a table,
//! so that any part of it can be given without reading what lies before.

use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::media::audio::Law;
use crate::media::audio::wav;
use crate::storage::blob::{BlobError, Blobs};

/// Bytes before the samples of a WAV of linear samples.
const HEAD_BYTES: u64 = wav::PCM_HEAD_BYTES as u64;

/// Such a WAV.
pub(crate) struct Expansion {
    /// The key of the stored file.
    pub(crate) key: String,
    pub(crate) law: Law,
    pub(crate) sample_rate: u32,
    pub(crate) samples: u64,
}

impl Expansion {
    /// The size in bytes.
    pub(crate) fn size(&self) -> u64 {
        HEAD_BYTES + 2 * self.samples
    }

    /// The bytes of `part`, which lies within the size.
    pub(crate) async fn stream(
        &self,
        blobs: &Blobs,
        part: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        let head = wav::pcm_head(self.sample_rate, self.samples);
        let head = head.expect("the store holds no recording that no WAV can hold");
        let in_head = part.start.min(HEAD_BYTES) as usize..part.end.min(HEAD_BYTES) as usize;
        let head = Bytes::copy_from_slice(&head[in_head]);
        let data = part.start.max(HEAD_BYTES) - HEAD_BYTES..part.end.max(HEAD_BYTES) - HEAD_BYTES;
        let head = stream::iter((!head.is_empty()).then_some(Ok(head)));
        if data.is_empty() {
            return Ok(head.boxed());
        }
        let begin = wav::G711_HEAD_BYTES as u64;
        let codes = begin + data.start / 2..begin + data.end.div_ceil(2);
        let codes = blobs.stream(&self.key, codes).await?;
        let mut window = Window::new(self.law, data);
        let samples = codes.map_ok(move |codes| window.expand(&codes));
        Ok(head.chain(samples).boxed())
    }
}

/// Expands codes, and cuts what comes out of them to the bytes that were asked for.
struct Window {
    law: Law,
    /// Bytes of the first sample that were not asked for.
    skip: usize,
    /// Bytes still to be given.
    left: u64,
}

impl Window {
    /// For the bytes `data` of the samples.
    fn new(law: Law, data: Range<u64>) -> Self {
        Self {
            law,
            skip: (data.start % 2) as usize,
            left: data.end - data.start,
        }
    }

    fn expand(&mut self, codes: &[u8]) -> Bytes {
        let samples = codes
            .iter()
            .flat_map(|code| self.law.sample(*code).to_le_bytes());
        let skip = std::mem::take(&mut self.skip);
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(2 * codes.len());
        bytes.extend(samples.skip(skip).take(left));
        self.left -= bytes.len() as u64;
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_slicing_the_whole_would_give() {
        let codes: Vec<u8> = (0..=255).collect();
        for law in [Law::Mu, Law::A] {
            let whole = Window::new(law, 0..512).expand(&codes);
            for (code, bytes) in codes.iter().zip(whole.chunks_exact(2)) {
                assert_eq!(bytes, law.sample(*code).to_le_bytes());
            }
            for (start, end) in [
                (0, 1),
                (1, 2),
                (1, 3),
                (2, 4),
                (3, 400),
                (511, 512),
                (0, 512),
            ] {
                let mut window = Window::new(law, start..end);
                let within = &codes[start as usize / 2..(end as usize).div_ceil(2)];
                // In pieces, as they come from the disk.
                let pieces = within.chunks(7).map(|piece| window.expand(piece));
                let part: Vec<u8> = pieces.flatten().collect();
                assert!(
                    part == whole[start as usize..end as usize],
                    "{start}..{end}"
                );
            }
        }
    }
}
