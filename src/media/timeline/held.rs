//! Packets in the order of their numbers: those that have been heard and may still be wanted, and
//! after them those that wait.

use std::collections::VecDeque;

use crate::media::audio::Codec;
use crate::media::recording::What;

/// Memory is taken in steps of so many bytes, as it is needed.
const STEP: usize = 1_024;
/// An empty store gives back what it took beyond this.
const KEPT_EMPTY: usize = STEP;

/// One packet on the line of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it begins, in ticks.
    pub position: u64,
    /// Packets that never came, just before this one.
    pub lost: u8,
    /// What it holds.
    pub what: What<'a>,
}

impl Packet<'_> {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.position + self.what.ticks()
    }
}

/// What is known of a packet beside its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) position: u64,
    pub(super) sequence: u16,
    /// Which of the sender's beginnings it belongs to.
    pub(super) run: u8,
    pub(super) lost: u8,
    len: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Audio(Codec),
    Noise,
    /// A packet that is no audio, as a digit: only its number counts.
    Other,
}

/// The payloads lie one after the other, so that each can be read in one piece.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    /// Where the payload of the first entry begins.
    from: usize,
    /// Entries that have been heard, and where the payload after them begins.
    heard: usize,
    heard_to: usize,
}

impl Held {
    /// Whether there is no packet, heard or waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that are in use.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() - self.from + self.entries.len() * size_of::<Entry>()
    }

    /// Bytes that are taken from the system.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Puts a packet where its number belongs among those that have not been heard; without `what` it
    /// is no audio.
    pub(super) fn insert(&mut self, position: u64, sequence: u16, run: u8, what: Option<What<'_>>) {
        let level;
        let (kind, payload) = match what {
            Some(What::Audio(codec, payload)) => (Kind::Audio(codec), payload),
            Some(What::Noise(noise)) => {
                level = [noise];
                (Kind::Noise, &level[..])
            }
            None => (Kind::Other, &[][..]),
        };
        let Ok(len) = u16::try_from(payload.len()) else {
            return;
        };
        self.make_room(payload.len());
        let entry = Entry {
            position,
            sequence,
            run,
            lost: 0,
            len,
            kind,
        };
        // Most packets come in order, and this looks at the last one only.
        let waiting = self.entries.range(self.heard..).rev();
        let (mut newer, mut bytes) = (0, 0);
        for other in waiting.take_while(|other| other.is_newer_than(&entry)) {
            newer += 1;
            bytes += usize::from(other.len);
        }
        self.entries.insert(self.entries.len() - newer, entry);
        self.bytes.extend_from_slice(payload);
        if bytes > 0 {
            let at = self.bytes.len() - payload.len() - bytes;
            self.bytes[at..].rotate_right(payload.len());
        }
    }

    fn make_room(&mut self, len: usize) {
        if self.bytes.len() + len <= self.bytes.capacity() {
            return;
        }
        self.bytes.drain(..self.from);
        self.heard_to -= self.from;
        self.from = 0;
        let needed = (self.bytes.len() + len).next_multiple_of(STEP);
        self.bytes.reserve_exact(needed - self.bytes.len());
    }

    /// The first packet that waits.
    pub(super) fn waiting(&self) -> Option<&Entry> {
        self.entries.get(self.heard)
    }

    /// The first packet that waits is heard now, after so many that are lost. False if there is none,
    /// or if it is no audio.
    pub(super) fn hear(&mut self, lost: u8) -> bool {
        match self.entries.get_mut(self.heard) {
            Some(entry) if entry.kind != Kind::Other => {
                entry.lost = lost;
                self.heard += 1;
                self.heard_to += usize::from(entry.len);
                true
            }
            _ => {
                self.drop_waiting();
                false
            }
        }
    }

    /// Forgets the first packet that waits.
    pub(super) fn drop_waiting(&mut self) {
        if let Some(entry) = self.entries.remove(self.heard) {
            self.bytes
                .drain(self.heard_to..self.heard_to + usize::from(entry.len));
        }
    }

    /// The packet that was heard last.
    pub(super) fn newest_heard(&self) -> Option<Packet<'_>> {
        let entry = self.entries.get(self.heard.checked_sub(1)?)?;
        let from = self.heard_to - usize::from(entry.len);
        entry.packet(self.bytes.get(from..self.heard_to)?)
    }

    /// The oldest packet that has been heard and is still there.
    pub(super) fn oldest_heard(&self) -> Option<Packet<'_>> {
        let entry = self.entries.front().filter(|_| self.heard > 0)?;
        let to = self.from + usize::from(entry.len);
        entry.packet(self.bytes.get(self.from..to)?)
    }

    /// The packets that have been heard and are still there.
    pub(super) fn heard(&self) -> impl Iterator<Item = Packet<'_>> {
        let mut at = self.from;
        self.entries.range(..self.heard).filter_map(move |entry| {
            let from = at;
            at += usize::from(entry.len);
            entry.packet(self.bytes.get(from..at)?)
        })
    }

    /// Forgets the oldest packet that has been heard.
    pub(super) fn forget_oldest_heard(&mut self) {
        if self.heard == 0 {
            return;
        }
        if let Some(entry) = self.entries.pop_front() {
            self.heard -= 1;
            self.from += usize::from(entry.len);
        }
        if self.entries.is_empty() {
            self.bytes.clear();
            (self.from, self.heard_to) = (0, 0);
            if self.bytes.capacity() > KEPT_EMPTY {
                self.bytes = Vec::new();
                self.entries = VecDeque::new();
            }
        }
    }
}

impl Entry {
    /// Whether its number is higher, counted round.
    fn is_newer_than(&self, other: &Self) -> bool {
        self.run == other.run && (self.sequence.wrapping_sub(other.sequence) as i16) > 0
    }

    fn packet(self, payload: &[u8]) -> Option<Packet<'_>> {
        let what = match self.kind {
            Kind::Audio(codec) => What::Audio(codec, payload),
            Kind::Noise => What::Noise(*payload.first()?),
            Kind::Other => return None,
        };
        Some(Packet {
            position: self.position,
            lost: self.lost,
            what,
        })
    }
}
