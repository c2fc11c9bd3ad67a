//! A recording, decoded.

use std::io;

use crate::media::audio::Codec;
use crate::media::audio::ComfortNoise;
use crate::media::audio::Decoder;
use crate::media::audio::TICK_RATE;
use crate::media::recording::log::Record;
use crate::media::recording::log::What;
use crate::media::recording::log::records;

/// What Opus makes up in a gap, at most: after this there is silence.
const CONCEALED: u64 = TICK_RATE as u64 / 2;
/// Samples in a piece of silence or noise.
const PIECE: usize = 4_096;

/// Decodes a log to samples of one rate, record by record. What was lost, and what was a pause, is
/// silence, or what the codec makes of it.
#[derive(Debug)]
pub struct Samples {
    rate: u32,
    /// Samples so far.
    given: u64,
    decoder: Option<Decoder>,
    noise: Option<ComfortNoise>,
    /// The piece in work.
    piece: Vec<i16>,
}

impl Samples {
    /// Decodes to `rate` samples per second: 8,000, 16,000 or 48,000.
    pub fn new(rate: u32) -> Self {
        Self {
            rate,
            given: 0,
            decoder: None,
            noise: None,
            piece: Vec::new(),
        }
    }

    /// Appends the samples of the next piece of a log, of whole records.
    pub fn feed(&mut self, log: &[u8], samples: &mut Vec<i16>) {
        for record in records(log) {
            let written = self.record(&record, |piece| {
                samples.extend_from_slice(piece);
                Ok(())
            });
            written.expect("a vector takes everything");
        }
    }

    /// Decodes one record into `write`, with the gap before it.
    pub(super) fn record(
        &mut self,
        record: &Record<'_>,
        mut write: impl FnMut(&[i16]) -> io::Result<()>,
    ) -> io::Result<()> {
        let step = u64::from(TICK_RATE / self.rate);
        let at = record.at / step;
        if at > self.given {
            self.gap(at - self.given, record, &mut write)?;
        }
        self.piece.clear();
        match record.what {
            What::Noise(level) => {
                self.noise = Some(ComfortNoise::at_level(level));
                let end = record.end() / step;
                return self.fill(end.saturating_sub(self.given), &mut write);
            }
            What::Audio(codec, payload) => {
                self.noise = None;
                self.decoder_for(codec);
                if let Some(decoder) = &mut self.decoder {
                    decoder.decode(payload, &mut self.piece);
                }
            }
        }
        // Where packets overlap, the first one is heard.
        let heard = usize::try_from(self.given.saturating_sub(at)).unwrap_or(usize::MAX);
        let fresh = self.piece.get(heard..).unwrap_or_default();
        self.given += fresh.len() as u64;
        write(fresh)
    }

    /// Keeps the decoder as long as the codec stays: it goes on where it was.
    fn decoder_for(&mut self, codec: Codec) {
        if self.decoder.as_ref().map(Decoder::codec) != Some(codec) {
            self.decoder = Some(Decoder::new(codec, self.rate));
        }
    }

    /// Fills the gap before `next`.
    fn gap(
        &mut self,
        samples: u64,
        next: &Record<'_>,
        write: &mut impl FnMut(&[i16]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (What::Audio(Codec::Opus, payload), None) = (next.what, &self.noise) else {
            return self.fill(samples, write);
        };
        let step = u64::from(TICK_RATE / self.rate);
        let goes_on = self.decoder.as_ref().map(Decoder::codec) == Some(Codec::Opus);
        // Its last frame is repeated by the packet that follows, where the sender cares for that.
        let frame = next.ticks() / step;
        let repeated = if next.lost > 0 { samples.min(frame) } else { 0 };
        let unknown = samples - repeated;
        let concealed = if goes_on {
            unknown.min(CONCEALED / step)
        } else {
            0
        };
        self.decoder_for(Codec::Opus);
        let mut left = concealed;
        while left > 0 {
            // As much at once as a packet may hold: whole steps of 2.5 ms, and the rest silent.
            let part = left.min(frame.max(1));
            self.made_up(write, |decoder, piece| {
                decoder.conceal((part * step) as u32, piece);
            })?;
            left -= part;
        }
        self.fill(unknown - concealed, write)?;
        if repeated > 0 {
            self.made_up(write, |decoder, piece| {
                decoder.recover(payload, (repeated * step) as u32, piece);
            })?;
        }
        Ok(())
    }

    fn made_up(
        &mut self,
        write: &mut impl FnMut(&[i16]) -> io::Result<()>,
        make: impl FnOnce(&mut Decoder, &mut Vec<i16>),
    ) -> io::Result<()> {
        self.piece.clear();
        if let Some(decoder) = &mut self.decoder {
            make(decoder, &mut self.piece);
        }
        self.given += self.piece.len() as u64;
        write(&self.piece)
    }

    /// Noise, if that was told, or silence.
    fn fill(
        &mut self,
        samples: u64,
        write: &mut impl FnMut(&[i16]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut left = samples;
        while left > 0 {
            let part = left.min(PIECE as u64);
            self.piece.clear();
            self.piece.resize(part as usize, 0);
            if let Some(noise) = &mut self.noise {
                noise.fill(&mut self.piece);
            }
            write(&self.piece)?;
            left -= part;
        }
        self.given += samples;
        Ok(())
    }
}
