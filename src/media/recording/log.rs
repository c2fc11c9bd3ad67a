//! The log: how records stand in a file.
//!
//! A record is a head of eight bytes (what it is, packets that were lost before it, length and moment,
//! both little-endian) and its payload. No record begins with a zero, which is what a disk shows
//! where a file had grown and its bytes had not yet come.

use std::io;
use std::io::Read;

use crate::media::audio::Codec;
use crate::media::audio::FRAME_TICKS;
#[cfg(feature = "amr")]
use crate::media::audio::amr::Packing;

const HEAD: usize = 8;
/// The longest record: a head, and what its length can tell.
const LONGEST: usize = HEAD + u16::MAX as usize;

const NOISE: u8 = 1;

/// One packet of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it begins, in ticks since the recording began; up to a day.
    pub at: u64,
    /// Packets that never came, just before this one. A gap without such is a pause.
    pub lost: u8,
    /// What it holds.
    pub what: What<'a>,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// The payload of a packet.
    Audio(Codec, &'a [u8]),
    /// Comfort noise so many dB below overload (RFC 3389), until something else comes.
    Noise(u8),
}

impl<'a> Record<'a> {
    /// How long it lasts, in ticks. Noise lasts one frame, and then on through the gap after it.
    pub fn ticks(&self) -> u64 {
        self.what.ticks()
    }

    /// When it ends, in ticks since the recording began.
    pub fn end(&self) -> u64 {
        self.at + self.ticks()
    }

    /// Bytes that it takes in a log.
    pub fn bytes(&self) -> usize {
        HEAD + match self.what {
            What::Audio(_, payload) => payload.len(),
            What::Noise(_) => 1,
        }
    }

    /// Appends it to a log. A payload longer than any datagram, or a moment after the first day, is
    /// left out.
    pub fn write(&self, log: &mut Vec<u8>) {
        let level;
        let (kind, payload) = match self.what {
            What::Audio(codec, payload) => (code_of(codec), payload),
            What::Noise(noise) => {
                level = [noise];
                (NOISE, &level[..])
            }
        };
        let (Ok(len), Ok(at)) = (u16::try_from(payload.len()), u32::try_from(self.at)) else {
            return;
        };
        let [len_0, len_1] = len.to_le_bytes();
        let [at_0, at_1, at_2, at_3] = at.to_le_bytes();
        log.extend_from_slice(&[kind, self.lost, len_0, len_1, at_0, at_1, at_2, at_3]);
        log.extend_from_slice(payload);
    }

    /// The first record of `log`, and what follows it; `None` at the end, torn or not.
    fn split(log: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = log.split_first_chunk::<HEAD>()?;
        let [kind, lost, len_0, len_1, at @ ..] = *head;
        let len = u16::from_le_bytes([len_0, len_1]);
        let (payload, rest) = rest.split_at_checked(len.into())?;
        let what = match kind {
            NOISE => What::Noise(*payload.first()?),
            kind => {
                let codec = codec_of(kind)?;
                codec.duration(payload)?;
                What::Audio(codec, payload)
            }
        };
        let at = u32::from_le_bytes(at).into();
        Some((Self { at, lost, what }, rest))
    }
}

impl What<'_> {
    /// How long it lasts, in ticks.
    pub fn ticks(&self) -> u64 {
        let ticks = match self {
            Self::Audio(codec, payload) => codec.duration(payload).unwrap_or(0),
            Self::Noise(_) => FRAME_TICKS,
        };
        ticks.into()
    }
}

/// How codecs are called in a log. What was once given is never given again.
const CODES: &[(Codec, u8)] = &[
    (Codec::Pcmu, 2),
    (Codec::Pcma, 3),
    (Codec::G722, 4),
    (Codec::Opus, 5),
    #[cfg(feature = "amr")]
    (Codec::Amr(Packing::BandwidthEfficient), 6),
    #[cfg(feature = "amr")]
    (Codec::Amr(Packing::OctetAligned), 7),
    #[cfg(feature = "amr")]
    (Codec::AmrWb(Packing::BandwidthEfficient), 8),
    #[cfg(feature = "amr")]
    (Codec::AmrWb(Packing::OctetAligned), 9),
];

fn code_of(codec: Codec) -> u8 {
    let known = CODES.iter().find(|(known, _)| *known == codec);
    known
        .map(|(_, code)| *code)
        .expect("every codec has a code")
}

fn codec_of(code: u8) -> Option<Codec> {
    let known = CODES.iter().find(|(_, known)| *known == code);
    known.map(|(codec, _)| *codec)
}

/// The records of a log in memory. It stops where a record is torn or makes no sense.
pub fn records(log: &[u8]) -> Records<'_> {
    Records { rest: log }
}

/// See [`records`].
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (record, rest) = Record::split(self.rest)?;
        self.rest = rest;
        Some(record)
    }
}

/// Reads a log piece by piece, so that a long one takes no more memory than a short one.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    from: usize,
    /// Whether the input is exhausted.
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the log that begins where `input` stands.
    pub fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::with_capacity(LONGEST),
            from: 0,
            ended: false,
        }
    }

    /// The next record; `None` at the end, torn or not.
    pub fn read(&mut self) -> io::Result<Option<Record<'_>>> {
        if Record::split(self.rest()).is_none() && !self.ended {
            self.refill()?;
        }
        let rest = self.buffer.get(self.from..).unwrap_or_default();
        let Some((record, after)) = Record::split(rest) else {
            return Ok(None);
        };
        self.from = self.buffer.len() - after.len();
        Ok(Some(record))
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.from..).unwrap_or_default()
    }

    /// Reads on, until there is as much as the longest record.
    fn refill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.from);
        self.from = 0;
        let missing = LONGEST - self.buffer.len().min(LONGEST);
        let read = (&mut self.input)
            .take(missing as u64)
            .read_to_end(&mut self.buffer)?;
        self.ended = read < missing;
        Ok(())
    }
}
