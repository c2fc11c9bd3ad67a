//! Ogg Opus files (RFC 7845): what was received, packet by packet, without encoding it anew.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;

use ogg::PacketReader;
use ogg::PacketWriteEndInfo;
use ogg::PacketWriter;

use crate::media::audio::TICK_RATE;
use crate::media::audio::codec::Codec;
use crate::media::audio::decoder::Decoder;
use crate::media::audio::opus;

/// Every file has one stream, so its number says nothing; a fixed one keeps files reproducible.
const SERIAL: u32 = 1;

/// A page holds about a second (RFC 7845 section 6: players seek by pages).
const PAGE_TICKS: u64 = TICK_RATE as u64;

/// The unit of what is missing.
const SHORTEST_TICKS: u64 = opus::SHORTEST_TICKS as u64;

/// Writes an Ogg Opus file from packets.
pub struct Writer<W: Write> {
    out: PacketWriter<'static, W>,
    pre_skip: u16,
    /// The newest packet, which waits: the last one of all ends the stream.
    held: Option<Held>,
    /// The end of the newest packet, counted from the beginning of the stream with its pre-skip.
    granule: u64,
    /// Granule position with which the last page ended.
    page_granule: u64,
    /// Configuration of the last packet that was received: what is missing is concealed in it.
    configuration: u8,
    /// Ticks that are missing, too few for a frame.
    owed: u64,
}

struct Held {
    packet: Vec<u8>,
    granule: u64,
}

impl<W: Write> Writer<W> {
    /// A file of a stream of which every sample is wanted. What is skipped at the beginning is no
    /// packet of the stream: players take a skip of nothing for a mistake.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self::with_head(out, opus::SHORTEST_TICKS as u16, TICK_RATE)?;
        writer.missing(SHORTEST_TICKS)?;
        Ok(writer)
    }

    /// A file whose first `pre_skip` ticks only wake the decoder, of audio that was sampled at
    /// `input_rate`.
    pub fn with_head(out: W, pre_skip: u16, input_rate: u32) -> io::Result<Self> {
        let mut out = PacketWriter::new(out);
        let end = PacketWriteEndInfo::EndPage;
        out.write_packet(head(pre_skip, input_rate), SERIAL, end, 0)?;
        out.write_packet(tags(), SERIAL, end, 0)?;
        Ok(Self {
            out,
            pre_skip,
            held: None,
            granule: 0,
            page_granule: 0,
            configuration: opus::SILENCE[0],
            owed: 0,
        })
    }

    /// Appends a packet. One without a duration is left out.
    pub fn packet(&mut self, packet: &[u8]) -> io::Result<()> {
        let (Some(ticks), Some(&toc)) = (opus::duration(packet), packet.first()) else {
            return Ok(());
        };
        self.configuration = toc & !3;
        self.append(packet.to_vec(), ticks.into())
    }

    /// Appends packets that say that `ticks` are missing, by loss or because the sender was silent
    /// (RFC 7845 section 4.1). A rest of less than 2.5 ms counts towards the next call.
    pub fn missing(&mut self, ticks: u64) -> io::Result<()> {
        self.owed += ticks;
        while self.owed >= SHORTEST_TICKS {
            let (packet, ticks) = opus::missing(self.configuration, self.owed);
            self.owed = self.owed.saturating_sub(ticks);
            self.append(packet, ticks)?;
        }
        Ok(())
    }

    /// Ends the file after `end_ticks`: what is beyond is not played, what is not there is missing.
    /// Gives the output back.
    pub fn finish(mut self, end_ticks: u64) -> io::Result<W> {
        let end = end_ticks + u64::from(self.pre_skip);
        if end > self.granule {
            self.owed = 0;
            let short = end - self.granule;
            self.missing(short.next_multiple_of(SHORTEST_TICKS))?;
        }
        if self.held.is_none() {
            self.missing(SHORTEST_TICKS)?;
        }
        if let Some(last) = self.held.take() {
            // RFC 7845 section 4.4. A page never ends before the one in front of it.
            let granule = end.min(last.granule).max(self.page_granule);
            let info = PacketWriteEndInfo::EndStream;
            self.out.write_packet(last.packet, SERIAL, info, granule)?;
        }
        let mut out = self.out.into_inner();
        out.flush()?;
        Ok(out)
    }

    fn append(&mut self, packet: Vec<u8>, ticks: u64) -> io::Result<()> {
        self.granule += ticks;
        let granule = self.granule;
        let Some(ready) = self.held.replace(Held { packet, granule }) else {
            return Ok(());
        };
        let full = granule - self.page_granule > PAGE_TICKS;
        let info = if full {
            self.page_granule = ready.granule;
            PacketWriteEndInfo::EndPage
        } else {
            PacketWriteEndInfo::NormalPacket
        };
        let Held { packet, granule } = ready;
        self.out.write_packet(packet, SERIAL, info, granule)
    }
}

/// RFC 7845 section 5.1: version 1, mono, no gain, mapping family 0.
fn head(pre_skip: u16, input_rate: u32) -> Vec<u8> {
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend(pre_skip.to_le_bytes());
    head.extend(input_rate.to_le_bytes());
    head.extend([0, 0, 0]);
    head
}

/// RFC 7845 section 5.2: who wrote it, and no comments.
fn tags() -> Vec<u8> {
    const VENDOR: &[u8] = b"aftertone";
    let mut tags = b"OpusTags".to_vec();
    tags.extend((VENDOR.len() as u32).to_le_bytes());
    tags.extend(VENDOR);
    tags.extend(0_u32.to_le_bytes());
    tags
}

/// Why an Ogg file cannot be used; the text is for the person who gave it.
#[derive(Debug, thiserror::Error)]
pub enum OggError {
    /// It does not begin as an Ogg Opus file does.
    #[error("this is no Ogg Opus file; export the recording as WAV or as Ogg Opus")]
    NotOpus,
    /// Neither mono nor stereo.
    #[error("Opus with {0} channels cannot be read; export it as mono or stereo")]
    Channels(u8),
    /// No audio follows the heads.
    #[error("this Ogg file holds no audio")]
    NoAudio,
    /// Longer than anything we play.
    #[error("the recording is longer than {0} seconds, the most that is possible")]
    TooLong(u64),
    /// A page is damaged, or cannot be read.
    #[error("this Ogg file is damaged; send it again")]
    Damaged(#[source] ogg::OggReadError),
}

/// Reads an Ogg Opus file: ours, or any with one stream of one or two channels.
pub struct Reader<R: Read + Seek> {
    packets: PacketReader<R>,
    serial: u32,
    decoder: Decoder,
    /// Ticks still to be left out at the beginning.
    skip: u64,
    /// Ticks still to come after those.
    left: u64,
    /// The last packet, if it was missing: the next one may repeat what was in it.
    missing: Option<u32>,
    gain: f32,
    ended: bool,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the heads, and how long the stream is.
    pub fn open(mut source: R) -> Result<Self, OggError> {
        let outline = Outline::read(&mut source)?;
        let mut packets = PacketReader::new(source);
        let mut packet = || packets.read_packet().map_err(OggError::Damaged);
        let head = packet()?.ok_or(OggError::NotOpus)?;
        let (serial, head) = (head.stream_serial(), Head::parse(&head.data)?);
        let tags = packet()?.ok_or(OggError::NoAudio)?;
        if !tags.data.starts_with(b"OpusTags") {
            return Err(OggError::NotOpus);
        }
        Ok(Self {
            packets,
            serial,
            decoder: Decoder::new(Codec::Opus, TICK_RATE),
            skip: head.pre_skip.into(),
            left: outline.length(),
            missing: None,
            gain: 10_f32.powf(f32::from(head.gain) / 256.0 / 20.0),
            ended: false,
        })
    }

    /// Samples that are still to come, if the file is whole.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Appends the samples of the next packet, 48,000 a second, mono; `false` at the end. A file
    /// that breaks off ends there.
    pub fn read(&mut self, out: &mut Vec<i16>) -> Result<bool, OggError> {
        if self.ended || self.left == 0 {
            return Ok(false);
        }
        let start = out.len();
        match self.packets.read_packet().map_err(OggError::Damaged)? {
            Some(packet) if packet.stream_serial() == self.serial => {
                self.decode(&packet.data, out);
                self.ended = packet.last_in_stream();
            }
            Some(_) => {}
            None => self.ended = true,
        }
        if self.ended {
            self.conceal_missing(out);
        }
        self.cut(start, out);
        Ok(true)
    }

    fn decode(&mut self, packet: &[u8], out: &mut Vec<i16>) {
        if opus::is_missing(packet) {
            self.conceal_missing(out);
            self.missing = opus::duration(packet);
            return;
        }
        if let Some(missing) = self.missing.take() {
            self.decoder.recover(packet, missing, out);
        }
        self.decoder.decode(packet, out);
    }

    fn conceal_missing(&mut self, out: &mut Vec<i16>) {
        if let Some(ticks) = self.missing.take() {
            self.decoder.conceal(ticks, out);
        }
    }

    /// Leaves out what is before the beginning and after the end, and applies the gain.
    fn cut(&mut self, start: usize, out: &mut Vec<i16>) {
        let fresh = (out.len() - start) as u64;
        let skipped = fresh.min(self.skip);
        out.drain(start..start + skipped as usize);
        self.skip -= skipped;
        let kept = (fresh - skipped).min(self.left);
        out.truncate(start + kept as usize);
        self.left -= kept;
        if self.gain != 1.0 {
            for sample in &mut out[start..] {
                *sample = (f32::from(*sample) * self.gain).round() as i16;
            }
        }
    }
}

/// How many samples of 48,000 a second an Ogg Opus file plays, without decoding it.
pub fn length(source: &mut (impl Read + Seek)) -> io::Result<u64> {
    let outline = Outline::read(source).map_err(io::Error::other)?;
    Ok(outline.length())
}

/// What the identification head says (RFC 7845 section 5.1).
struct Head {
    pre_skip: u16,
    /// In 1/256 dB.
    gain: i16,
}

impl Head {
    fn parse(head: &[u8]) -> Result<Self, OggError> {
        let fields = head.strip_prefix(b"OpusHead").ok_or(OggError::NotOpus)?;
        let &[version, channels, a, b, _, _, _, _, c, d, family, ..] = fields else {
            return Err(OggError::NotOpus);
        };
        // The upper half of the version tells what cannot be read.
        if version & 0xF0 != 0 {
            return Err(OggError::NotOpus);
        }
        if !(1..=2).contains(&channels) || family > 1 {
            return Err(OggError::Channels(channels));
        }
        Ok(Self {
            pre_skip: u16::from_le_bytes([a, b]),
            gain: i16::from_le_bytes([c, d]),
        })
    }
}

/// The beginning and the end of a file.
struct Outline {
    pre_skip: u16,
    /// Granule position of the last page.
    end: u64,
}

impl Outline {
    fn read(source: &mut (impl Read + Seek)) -> Result<Self, OggError> {
        let (first, tail) = Self::ends(source).map_err(|e| OggError::Damaged(e.into()))?;
        let first_page = Page::parse(&first).ok_or(OggError::NotOpus)?;
        let head = Head::parse(first.get(28..).unwrap_or_default())?;
        let pages = (0..tail.len())
            .rev()
            .filter_map(|at| Page::parse(&tail[at..]));
        let last = pages
            .filter(|page| page.serial == first_page.serial)
            .find(|page| page.granule != u64::MAX);
        Ok(Self {
            pre_skip: head.pre_skip,
            end: last.ok_or(OggError::NoAudio)?.granule,
        })
    }

    /// The first page, at least, and the last one, wherever it begins.
    fn ends(source: &mut (impl Read + Seek)) -> io::Result<(Vec<u8>, Vec<u8>)> {
        const FIRST_PAGE: u64 = 128;
        const LONGEST_PAGE: u64 = 65_307;
        let (mut first, mut tail) = (Vec::new(), Vec::new());
        source.rewind()?;
        source.by_ref().take(FIRST_PAGE).read_to_end(&mut first)?;
        let size = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(size.saturating_sub(LONGEST_PAGE)))?;
        source.by_ref().take(LONGEST_PAGE).read_to_end(&mut tail)?;
        source.rewind()?;
        Ok((first, tail))
    }

    fn length(&self) -> u64 {
        self.end.saturating_sub(self.pre_skip.into())
    }
}

/// The fields of a page head that matter here (RFC 3533 section 6).
struct Page {
    granule: u64,
    serial: u32,
}

impl Page {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; 27] = bytes.first_chunk()?;
        let fields = head.strip_prefix(b"OggS\0")?;
        let (granule, rest) = fields.get(1..)?.split_first_chunk()?;
        Some(Self {
            granule: u64::from_le_bytes(*granule),
            serial: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests;
