//! STUN as ICE uses it (RFC 8489, RFC 8445 section 7): binding requests and their answers.
//!
//! Read without allocation, written into the caller's buffer. An attribute that says nothing to ICE
//! is skipped; one that must be understood and is not is told, for the answer 420.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use aws_lc_rs::hmac;

/// The longest message that is written: a request with two fragments of 256 characters.
pub const MAX_LEN: usize = 640;

const MAGIC: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const HEADER: usize = 20;
/// Length of MESSAGE-INTEGRITY and FINGERPRINT with their heads.
const INTEGRITY: usize = 24;
const FINGERPRINT_LEN: usize = 8;
/// FINGERPRINT is the checksum, exclusive-or this (RFC 8489 section 14.7).
const FINGERPRINT_MASK: u32 = 0x5354_554E;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802A;

/// What must be understood, and means nothing to a binding of ICE: MAPPED-ADDRESS, REALM, NONCE,
/// MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH.
const HARMLESS: [u16; 6] = [0x0001, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E];

/// The number of a transaction.
pub type TransactionId = [u8; 12];

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A check; it wants an answer.
    Request,
    /// A sign of life; it wants none.
    Indication,
    /// A check was answered.
    Success,
    /// A check was refused.
    Error,
}

/// What an agent says of its role, with its tie-breaker (RFC 8445 section 7.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It nominates.
    Controlling(u64),
    /// It does not.
    Controlled(u64),
}

/// Why a datagram is no message of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// Lengths that contradict each other, or no magic cookie.
    #[error("the datagram is no STUN message")]
    Malformed,
    /// A method other than binding.
    #[error("the STUN message is of another method than binding")]
    Method,
    /// Its FINGERPRINT is of another message.
    #[error("the STUN message's fingerprint is wrong")]
    Fingerprint,
}

/// A binding message, borrowed from its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// What it is for.
    pub class: Class,
    /// Its transaction.
    pub transaction: TransactionId,
    /// Receiver's fragment, colon, sender's fragment.
    pub username: Option<&'a [u8]>,
    /// The priority of the sender's address, were it a candidate.
    pub priority: Option<u32>,
    /// Whether it nominates.
    pub use_candidate: bool,
    /// The sender's role.
    pub role: Option<Role>,
    /// How the answerer saw us.
    pub mapped: Option<SocketAddr>,
    /// Why a check was refused.
    pub error: Option<u16>,
    /// The first attribute that had to be understood and was not.
    pub unknown: Option<u16>,
    /// Where MESSAGE-INTEGRITY begins.
    integrity: Option<usize>,
}

/// Tells the transaction of a message, were the datagram one; good enough to look it up.
pub fn transaction_of(datagram: &[u8]) -> Option<TransactionId> {
    datagram.get(8..HEADER)?.try_into().ok()
}

impl<'a> Message<'a> {
    /// Reads a datagram. Nothing of it is believed before [`Message::is_signed_with`].
    pub fn read(datagram: &'a [u8]) -> Result<Self, StunError> {
        let Some((header, mut rest)) = datagram.split_at_checked(HEADER) else {
            return Err(StunError::Malformed);
        };
        let [type_0, type_1, len_0, len_1, cookie @ ..] = header else {
            return Err(StunError::Malformed);
        };
        let len = usize::from(u16::from_be_bytes([*len_0, *len_1]));
        if type_0 >> 6 != 0 || !cookie.starts_with(&MAGIC) || len != rest.len() || len % 4 != 0 {
            return Err(StunError::Malformed);
        }
        let class = match u16::from_be_bytes([*type_0, *type_1]) {
            0x0001 => Class::Request,
            0x0011 => Class::Indication,
            0x0101 => Class::Success,
            0x0111 => Class::Error,
            _ => return Err(StunError::Method),
        };
        let mut message = Self {
            bytes: datagram,
            class,
            transaction: transaction_of(datagram).ok_or(StunError::Malformed)?,
            username: None,
            priority: None,
            use_candidate: false,
            role: None,
            mapped: None,
            error: None,
            unknown: None,
            integrity: None,
        };
        while let Some((kind, value, after)) = attribute(rest) {
            let at = datagram.len() - rest.len();
            // RFC 8489 section 14.5: behind the signature only the fingerprint counts.
            if kind == FINGERPRINT {
                if !after.is_empty() || !is_fingerprint(datagram, at, value) {
                    return Err(StunError::Fingerprint);
                }
            } else if message.integrity.is_none() {
                message.take(kind, value, at)?;
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(StunError::Malformed);
        }
        Ok(message)
    }

    fn take(&mut self, kind: u16, value: &'a [u8], at: usize) -> Result<(), StunError> {
        let malformed = StunError::Malformed;
        match kind {
            USERNAME => self.username = Some(value),
            MESSAGE_INTEGRITY if value.len() == INTEGRITY - 4 => self.integrity = Some(at),
            MESSAGE_INTEGRITY => return Err(malformed),
            PRIORITY => {
                let bytes = value.try_into().map_err(|_| malformed)?;
                self.priority = Some(u32::from_be_bytes(bytes));
            }
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLED | ICE_CONTROLLING => {
                let bytes = value.try_into().map_err(|_| malformed)?;
                let tie_breaker = u64::from_be_bytes(bytes);
                self.role = Some(match kind {
                    ICE_CONTROLLING => Role::Controlling(tie_breaker),
                    _ => Role::Controlled(tie_breaker),
                });
            }
            XOR_MAPPED_ADDRESS => {
                self.mapped = Some(unmask(value, &self.transaction).ok_or(malformed)?);
            }
            ERROR_CODE => {
                let [_, _, class, number, ..] = value else {
                    return Err(malformed);
                };
                self.error = Some(u16::from(class & 7) * 100 + u16::from(*number));
            }
            UNKNOWN_ATTRIBUTES => {}
            kind if kind < 0x8000 && !HARMLESS.contains(&kind) => {
                self.unknown.get_or_insert(kind);
            }
            _ => {}
        }
        Ok(())
    }

    /// The receiver's fragment: whom it is for.
    pub fn receiver(&self) -> Option<&'a [u8]> {
        self.username?.split(|byte| *byte == b':').next()
    }

    /// Whether it bears a signature made with this key (RFC 8489 section 14.5).
    pub fn is_signed_with(&self, key: &hmac::Key) -> bool {
        let Some(at) = self.integrity else {
            return false;
        };
        let signed = self.bytes.get(..at);
        let tag = self.bytes.get(at + 4..at + INTEGRITY);
        let (Some([type_0, type_1, _, _, rest @ ..]), Some(tag)) = (signed, tag) else {
            return false;
        };
        // The length is signed as if nothing came after the signature.
        let [len_0, len_1] = ((at + INTEGRITY - HEADER) as u16).to_be_bytes();
        let mut context = hmac::Context::with_key(key);
        context.update(&[*type_0, *type_1, len_0, len_1]);
        context.update(rest);
        aws_lc_rs::constant_time::verify_slices_are_equal(context.sign().as_ref(), tag).is_ok()
    }
}

/// The key of a short-term credential (RFC 8489 section 9.1.1).
pub fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

/// Type and value of the first attribute, and what comes behind it.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let [type_0, type_1, len_0, len_1, rest @ ..] = bytes else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*len_0, *len_1]));
    let value = rest.get(..len)?;
    let after = rest.get(len.next_multiple_of(4)..)?;
    Some((u16::from_be_bytes([*type_0, *type_1]), value, after))
}

fn is_fingerprint(datagram: &[u8], at: usize, value: &[u8]) -> bool {
    let covered = datagram.get(..at).unwrap_or_default();
    value == (crc32(covered) ^ FINGERPRINT_MASK).to_be_bytes()
}

/// RFC 8489 section 14.2.
fn unmask(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let [0, family, port_0, port_1, address @ ..] = value else {
        return None;
    };
    let [magic_0, magic_1, ..] = MAGIC;
    let port = u16::from_be_bytes([port_0 ^ magic_0, port_1 ^ magic_1]);
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(masked::<4>(address, transaction)?)),
        2 => IpAddr::V6(Ipv6Addr::from(masked::<16>(address, transaction)?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn masked<const N: usize>(address: &[u8], transaction: &TransactionId) -> Option<[u8; N]> {
    let mut masked: [u8; N] = address.try_into().ok()?;
    let mask = MAGIC.iter().chain(transaction);
    masked
        .iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    Some(masked)
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0xEDB8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// The checksum of ISO 3309, as Ethernet and FINGERPRINT have it.
fn crc32(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = crc32_table();
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!0, step)
}

/// A message being written.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
    /// Whether something found no room.
    is_cut: bool,
}

impl<'a> Writer<'a> {
    /// Begins a message; [`MAX_LEN`] bytes are room enough.
    pub fn new(buffer: &'a mut [u8], class: Class, transaction: &TransactionId) -> Self {
        let kind: u16 = match class {
            Class::Request => 0x0001,
            Class::Indication => 0x0011,
            Class::Success => 0x0101,
            Class::Error => 0x0111,
        };
        let mut writer = Self {
            buffer,
            len: 0,
            is_cut: false,
        };
        writer.put(&kind.to_be_bytes());
        writer.put(&[0, 0]);
        writer.put(&MAGIC);
        writer.put(transaction);
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.is_cut = true,
        }
    }

    pub(super) fn attribute(&mut self, kind: u16, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.put(&kind.to_be_bytes());
        self.put(&(len as u16).to_be_bytes());
        parts.iter().for_each(|part| self.put(part));
        let padding = len.next_multiple_of(4) - len;
        self.put([0; 3].get(..padding).unwrap_or_default());
    }

    /// For whom, and from whom.
    pub fn username(&mut self, receiver: &str, sender: &str) {
        self.attribute(USERNAME, &[receiver.as_bytes(), b":", sender.as_bytes()]);
    }

    /// The priority of our address, were it a candidate.
    pub fn priority(&mut self, priority: u32) {
        self.attribute(PRIORITY, &[&priority.to_be_bytes()]);
    }

    /// Nominates.
    pub fn use_candidate(&mut self) {
        self.attribute(USE_CANDIDATE, &[]);
    }

    /// Our role.
    pub fn role(&mut self, role: Role) {
        let (kind, tie_breaker) = match role {
            Role::Controlling(tie_breaker) => (ICE_CONTROLLING, tie_breaker),
            Role::Controlled(tie_breaker) => (ICE_CONTROLLED, tie_breaker),
        };
        self.attribute(kind, &[&tie_breaker.to_be_bytes()]);
    }

    /// How we saw the asker.
    pub fn mapped(&mut self, address: SocketAddr, transaction: &TransactionId) {
        let [magic_0, magic_1, ..] = MAGIC;
        let [port_0, port_1] = address.port().to_be_bytes();
        let port = [port_0 ^ magic_0, port_1 ^ magic_1];
        match address.ip() {
            IpAddr::V4(ip) => {
                let masked = masked::<4>(&ip.octets(), transaction).unwrap_or_default();
                self.attribute(XOR_MAPPED_ADDRESS, &[&[0, 1], &port, &masked]);
            }
            IpAddr::V6(ip) => {
                let masked = masked::<16>(&ip.octets(), transaction).unwrap_or_default();
                self.attribute(XOR_MAPPED_ADDRESS, &[&[0, 2], &port, &masked]);
            }
        }
    }

    /// Why a check is refused.
    pub fn error(&mut self, code: u16, reason: &str) {
        let number = [0, 0, (code / 100) as u8, (code % 100) as u8];
        self.attribute(ERROR_CODE, &[&number, reason.as_bytes()]);
    }

    /// What was not understood.
    pub fn unknown(&mut self, kind: u16) {
        self.attribute(UNKNOWN_ATTRIBUTES, &[&kind.to_be_bytes()]);
    }

    /// Signs the message and ends it. Tells its length, or `None` where the buffer was too short.
    pub fn finish(mut self, key: &hmac::Key) -> Option<usize> {
        self.set_len(INTEGRITY);
        let tag = hmac::sign(key, self.buffer.get(..self.len)?);
        self.attribute(MESSAGE_INTEGRITY, &[tag.as_ref()]);
        self.set_len(FINGERPRINT_LEN);
        let fingerprint = crc32(self.buffer.get(..self.len)?) ^ FINGERPRINT_MASK;
        self.attribute(FINGERPRINT, &[&fingerprint.to_be_bytes()]);
        (!self.is_cut).then_some(self.len)
    }

    /// The length that the header tells: what is there, and what will follow.
    fn set_len(&mut self, following: usize) {
        let len = (self.len + following).saturating_sub(HEADER) as u16;
        if let Some(field) = self.buffer.get_mut(2..4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
