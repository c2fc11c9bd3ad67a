//! From the log to a file that others can play.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;

use crate::media::audio::Codec;
use crate::media::audio::Law;
use crate::media::audio::TICK_RATE;
use crate::media::audio::ogg;
use crate::media::audio::wav;
use crate::media::recording::log::Reader;
use crate::media::recording::log::Record;
use crate::media::recording::log::What;
use crate::media::recording::losses::Gap;
use crate::media::recording::losses::LossMap;
use crate::media::recording::samples::Samples;

/// The shortest stretch that Opus can tell of, in ticks: 2.5 ms.
const GRAIN: u64 = 120;

/// How a recording is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The packets of Opus as they came, in Ogg (RFC 7845).
    OggOpus,
    /// The codes of G.711 as they came, in a WAV file of that format.
    WavG711(Law),
    /// A WAV file of 16 bits: what came was of several codecs, or of one that no usual file holds.
    WavPcm,
}

/// What became of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What kind of file it is.
    pub format: Format,
    /// What was received, in the order of first use.
    pub codecs: Vec<Codec>,
    /// Samples per second of the file, or of what Opus decodes to.
    pub sample_rate: u32,
    /// How long it is.
    pub ticks: u64,
    /// What is missing in it.
    pub losses: LossMap,
}

/// How long the recording is that `log` holds.
pub fn ticks(log: impl Read) -> io::Result<u64> {
    Survey::of(log, u64::MAX).map(|survey| survey.end)
}

/// Makes a file of the log that begins where `log` stands: of its first `keep` ticks, or of what
/// there is. What was received goes into it as it was received where a usual kind of file can hold
/// that: Opus, and G.711 of one law.
pub fn store(mut log: impl Read + Seek, keep: u64, mut out: impl Write) -> io::Result<Stored> {
    let begin = log.stream_position()?;
    let stored = Survey::of(&mut log, keep)?.decide(keep);
    log.seek(SeekFrom::Start(begin))?;
    let log = Reader::new(log);
    match stored.format {
        Format::OggOpus => write_ogg(log, stored.ticks, &mut out),
        Format::WavG711(law) => write_g711(log, law, stored.ticks, &mut out),
        Format::WavPcm => write_pcm(log, stored.sample_rate, stored.ticks, &mut out),
    }?;
    Ok(stored)
}

/// What there is in a log.
#[derive(Debug, Default)]
struct Survey {
    end: u64,
    codecs: Vec<Codec>,
    noise: bool,
    losses: LossMap,
}

impl Survey {
    fn of(log: impl Read, keep: u64) -> io::Result<Self> {
        let mut survey = Self::default();
        let mut reader = Reader::new(log);
        while let Some(record) = reader.read()? {
            if record.at >= keep {
                // A loss before it may still be ours.
                survey.lost(&record, keep);
                break;
            }
            survey.add(&record, keep);
        }
        Ok(survey)
    }

    fn add(&mut self, record: &Record<'_>, keep: u64) {
        self.lost(record, keep);
        match record.what {
            What::Audio(codec, _) if self.codecs.contains(&codec) => {}
            What::Audio(codec, _) => self.codecs.push(codec),
            What::Noise(_) => self.noise = true,
        }
        self.end = self.end.max(record.end());
    }

    /// What was lost lies just before `record`; more than the packets that are missing was not lost.
    fn lost(&mut self, record: &Record<'_>, keep: u64) {
        let gap = record.at.saturating_sub(self.end);
        let ticks = gap.min(u64::from(record.lost) * record.ticks());
        let at = record.at - ticks;
        let ticks = ticks.min(keep.saturating_sub(at));
        if ticks > 0 {
            self.losses.add(Gap { at, ticks });
        }
    }

    fn decide(self, keep: u64) -> Stored {
        let (format, sample_rate) = match (&self.codecs[..], self.noise) {
            ([Codec::Opus], false) => (Format::OggOpus, TICK_RATE),
            ([codec], false) => match codec.law() {
                Some(law) => (Format::WavG711(law), codec.sample_rate()),
                None => (Format::WavPcm, codec.sample_rate()),
            },
            (codecs, _) => {
                let rates = codecs.iter().map(|codec| codec.sample_rate());
                (Format::WavPcm, rates.max().unwrap_or(8_000))
            }
        };
        // A file of samples is as long as a whole number of them.
        let step = u64::from(TICK_RATE / sample_rate);
        Stored {
            format,
            sample_rate,
            ticks: self.end.min(keep) / step * step,
            codecs: self.codecs,
            losses: self.losses,
        }
    }
}

fn write_ogg(mut log: Reader<impl Read>, ticks: u64, out: &mut impl Write) -> io::Result<()> {
    let mut ogg = ogg::Writer::new(out)?;
    let mut written = 0;
    while let Some(record) = log.read()? {
        let What::Audio(_, packet) = record.what else {
            continue;
        };
        if record.at >= ticks {
            break;
        }
        // Where packets overlap by more than a little, the first one is heard.
        if record.at + record.ticks() / 2 < written {
            continue;
        }
        let gap = record.at.saturating_sub(written) / GRAIN * GRAIN;
        if gap > 0 {
            ogg.missing(gap)?;
        }
        ogg.packet(packet)?;
        written += gap + record.ticks();
    }
    if let Some(rest @ GRAIN..) = ticks.checked_sub(written) {
        ogg.missing(rest.next_multiple_of(GRAIN))?;
    }
    ogg.finish(ticks).map(drop)
}

fn write_g711(
    mut log: Reader<impl Read>,
    law: Law,
    ticks: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let step = u64::from(TICK_RATE / 8_000);
    let samples = ticks / step;
    out.write_all(&wav::g711_head(law, samples).ok_or(io::ErrorKind::FileTooLarge)?)?;
    let mut written = 0;
    while let Some(record) = log.read()? {
        let What::Audio(_, codes) = record.what else {
            continue;
        };
        let at = (record.at / step).min(samples);
        written += silence(at.saturating_sub(written), law, out)?;
        let heard = usize::try_from(written - at).unwrap_or(usize::MAX);
        let codes = codes.get(heard..).unwrap_or_default();
        let room = usize::try_from(samples - written).unwrap_or(usize::MAX);
        let codes = codes.get(..room).unwrap_or(codes);
        out.write_all(codes)?;
        written += codes.len() as u64;
    }
    silence(samples - written, law, out)?;
    // Chunks have an even length (the pad byte is not counted).
    out.write_all(if samples.is_multiple_of(2) { &[] } else { &[0] })
}

fn silence(samples: u64, law: Law, out: &mut impl Write) -> io::Result<u64> {
    io::copy(&mut io::repeat(law.silence()).take(samples), out)
}

fn write_pcm(
    mut log: Reader<impl Read>,
    rate: u32,
    ticks: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let total = ticks / u64::from(TICK_RATE / rate);
    out.write_all(&wav::pcm_head(rate, total).ok_or(io::ErrorKind::FileTooLarge)?)?;
    let mut left = total;
    let mut bytes = Vec::new();
    let mut write = |samples: &[i16]| {
        let room = usize::try_from(left).unwrap_or(usize::MAX);
        let samples = samples.get(..room).unwrap_or(samples);
        bytes.clear();
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        left -= samples.len() as u64;
        out.write_all(&bytes)
    };
    let mut samples = Samples::new(rate);
    while let Some(record) = log.read()? {
        if record.at >= ticks {
            break;
        }
        samples.record(&record, &mut write)?;
    }
    // Nothing was recorded of what is left: it is silent.
    io::copy(&mut io::repeat(0).take(2 * left), out).map(drop)
}
