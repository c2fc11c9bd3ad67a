//! From payloads to samples.

use std::fmt;
use std::panic;
use std::panic::AssertUnwindSafe;

use ezk_g722::libg722;
use opus_rs::OpusDecoder;

use crate::media::audio::TICK_RATE;
#[cfg(feature = "amr")]
use crate::media::audio::amr;
use crate::media::audio::codec::Codec;
use crate::media::audio::codec::FRAME_TICKS;
use crate::media::audio::g711::Law;
use crate::media::audio::opus;
use crate::media::audio::resample::Upsampler;

/// Decodes the payloads of one codec, in order, to mono samples.
///
/// What is appended is exactly as long as the payload says ([`Codec::duration`]) or as asked for,
/// whatever the payload holds: the timeline does not depend on the content.
pub struct Decoder {
    codec: Codec,
    rate: u32,
    state: State,
    /// From the rate of `state` to `rate`.
    upsampler: Option<Upsampler>,
    defects: u64,
}

enum State {
    G711(Law),
    G722(Box<libg722::decoder::Decoder>),
    /// About 175 KB, and none before the first packet.
    Opus(Option<Box<OpusDecoder>>),
    #[cfg(feature = "amr")]
    Amr(Box<amr::Decoder>),
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("codec", &self.codec)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// Why a packet could not be decoded; what, says the decoder's `defects`.
struct Defect;

impl Decoder {
    /// A decoder to `rate` samples per second: 8,000, 16,000 or 48,000.
    ///
    /// Opus and G.722 decode to 8,000 without making the upper band first.
    pub fn new(codec: Codec, rate: u32) -> Self {
        let (state, native) = match codec {
            Codec::Pcmu => (State::G711(Law::Mu), 8_000),
            Codec::Pcma => (State::G711(Law::A), 8_000),
            Codec::G722 => {
                let mode = libg722::Bitrate::Mode1_64000;
                let narrow = rate == 8_000;
                let decoder = libg722::decoder::Decoder::new(mode, false, narrow);
                (
                    State::G722(Box::new(decoder)),
                    if narrow { 8_000 } else { 16_000 },
                )
            }
            Codec::Opus => (State::Opus(None), rate),
            #[cfg(feature = "amr")]
            Codec::Amr(packing) => {
                let decoder = amr::Decoder::new(amr::Band::Narrow, packing, 8_000);
                (State::Amr(Box::new(decoder)), 8_000)
            }
            #[cfg(feature = "amr")]
            Codec::AmrWb(packing) => {
                let native = rate.min(16_000);
                let decoder = amr::Decoder::new(amr::Band::Wide, packing, native);
                (State::Amr(Box::new(decoder)), native)
            }
        };
        Self {
            codec,
            rate,
            state,
            upsampler: (rate > native).then(|| Upsampler::new((rate / native) as usize)),
            defects: 0,
        }
    }

    /// What it decodes.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Samples per second of the result.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Payloads that could not be decoded, and were concealed like lost ones.
    pub fn defects(&self) -> u64 {
        self.defects
    }

    /// Appends what a payload holds; nothing for a payload without a duration.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        let Some(ticks) = self.codec.duration(payload) else {
            self.defects += 1;
            return;
        };
        let rate = self.rate;
        self.append(ticks, out, |state, out| match state {
            State::G711(law) => {
                out.extend(payload.iter().map(|code| law.sample(*code)));
                Ok(())
            }
            State::G722(decoder) => {
                out.extend(decoder.decode(payload));
                Ok(())
            }
            State::Opus(decoder) if opus::is_missing(payload) => {
                conceal_opus(decoder, rate, ticks, out)
            }
            State::Opus(decoder) => {
                let samples = ticks / (TICK_RATE / rate);
                run_opus(decoder, rate, samples, out, |decoder, samples, pcm| {
                    decoder.decode(payload, samples, pcm)
                })
            }
            #[cfg(feature = "amr")]
            State::Amr(decoder) => guarded(|| decoder.decode(payload, out)),
        });
    }

    /// Appends `ticks` in place of a lost packet or a pause of the sender's (DTX): what the codec
    /// makes of the sound before, or silence.
    pub fn conceal(&mut self, ticks: u32, out: &mut Vec<i16>) {
        let rate = self.rate;
        self.append(ticks, out, |state, out| match state {
            State::Opus(decoder) => conceal_opus(decoder, rate, ticks, out),
            #[cfg(feature = "amr")]
            State::Amr(decoder) => guarded(|| decoder.conceal(ticks, out)),
            State::G711(_) | State::G722(_) => Ok(()),
        });
    }

    /// Appends the `ticks` that were lost right before the packet `next`, from what `next` repeats
    /// of them (in-band FEC, RFC 6716 section 2.1.7) or else as [`Decoder::conceal`] does. `next`
    /// itself is to be decoded afterwards.
    pub fn recover(&mut self, next: &[u8], ticks: u32, out: &mut Vec<i16>) {
        let fits = ticks <= opus::MAX_PACKET_TICKS && ticks.is_multiple_of(opus::SHORTEST_TICKS);
        if self.codec != Codec::Opus || !fits || opus::duration(next).is_none() {
            return self.conceal(ticks, out);
        }
        let rate = self.rate;
        self.append(ticks, out, |state, out| match state {
            State::Opus(decoder) => {
                let samples = ticks / (TICK_RATE / rate);
                run_opus(decoder, rate, samples, out, |decoder, samples, pcm| {
                    decoder.decode_fec(next, samples, pcm)
                })
            }
            _ => Ok(()),
        });
    }

    /// Lets `make` append at its own rate, and makes `ticks` at ours of it.
    fn append(
        &mut self,
        ticks: u32,
        out: &mut Vec<i16>,
        make: impl FnOnce(&mut State, &mut Vec<i16>) -> Result<(), Defect>,
    ) {
        let end = out.len() + (ticks / (TICK_RATE / self.rate)) as usize;
        let made = match &mut self.upsampler {
            None => make(&mut self.state, out),
            Some(upsampler) => {
                let mut narrow = Vec::new();
                let made = make(&mut self.state, &mut narrow);
                narrow.resize((ticks / upsampler.ticks(self.rate)) as usize, 0);
                upsampler.push(&narrow, out);
                made
            }
        };
        self.defects += u64::from(made.is_err());
        out.resize(end, 0);
    }
}

/// Has Opus invent `ticks`, packet by packet.
fn conceal_opus(
    decoder: &mut Option<Box<OpusDecoder>>,
    rate: u32,
    ticks: u32,
    out: &mut Vec<i16>,
) -> Result<(), Defect> {
    let mut left = ticks / opus::SHORTEST_TICKS * opus::SHORTEST_TICKS;
    // Before the first packet there is nothing to go on with.
    if decoder.is_none() {
        return Ok(());
    }
    while left > 0 {
        let part = left.min(FRAME_TICKS);
        let samples = part / (TICK_RATE / rate);
        run_opus(decoder, rate, samples, out, |decoder, samples, pcm| {
            decoder.decode(&[], samples, pcm)
        })?;
        left -= part;
    }
    Ok(())
}

/// The one place where foreign code meets the bytes of strangers: it may fail in whatever way.
fn guarded<T, E>(run: impl FnOnce() -> Result<T, E>) -> Result<T, Defect> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(_)) | Err(_) => Err(Defect),
    }
}

/// Runs Opus. A decoder that failed is replaced by a new one: its state is not to be trusted.
fn run_opus(
    slot: &mut Option<Box<OpusDecoder>>,
    rate: u32,
    samples: u32,
    out: &mut Vec<i16>,
    run: impl FnOnce(&mut OpusDecoder, usize, &mut [f32]) -> Result<usize, &'static str>,
) -> Result<(), Defect> {
    let decoder = slot.get_or_insert_with(|| {
        Box::new(OpusDecoder::new(rate as i32, 1).expect("the rate is one of Opus'"))
    });
    let mut room = [0.0; opus::MAX_PACKET_TICKS as usize];
    let pcm = room.get_mut(..samples as usize).ok_or(Defect)?;
    match guarded(|| run(decoder, samples as usize, pcm)) {
        Ok(count) => {
            let pcm = room.iter().take(count);
            out.extend(pcm.map(|sample| (sample * 32_768.0).round() as i16));
            Ok(())
        }
        Err(defect) => {
            *slot = None;
            Err(defect)
        }
    }
}

#[cfg(test)]
mod tests;
