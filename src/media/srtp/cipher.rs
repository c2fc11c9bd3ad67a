//! What one session key does to one packet: AES in counter mode with HMAC-SHA1 (RFC 3711), or
//! AES-GCM (RFC 7714).

use aws_lc_rs::aead::AES_128_GCM;
use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::Algorithm;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;
use aws_lc_rs::cipher::EncryptingKey;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;
use crate::media::srtp::ENCRYPTED;
use crate::media::srtp::RTCP_HEADER;
use crate::media::srtp::SrtpError;
use crate::media::srtp::derive::SessionKeys;
use crate::media::srtp::derive::Use;
use crate::media::srtp::derive::apply;
use crate::media::srtp::derive::counter_mode;

const GCM_TAG: usize = 16;
/// SRTCP has tags of 80 bits also where RTP has 32 (RFC 4568 section 6.2.2).
const RTCP_TAG: usize = 10;
const INDEX: usize = 4;

/// The session keys of one direction and use.
pub(super) enum Cipher {
    Counter(Box<Counter>),
    Gcm { key: LessSafeKey, salt: [u8; 12] },
}

/// AES in counter mode and HMAC-SHA1.
pub(super) struct Counter {
    key: EncryptingKey,
    salt: [u8; 14],
    mac: hmac::Key,
    tag: usize,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Counter(_) => "Counter(…)",
            Self::Gcm { .. } => "Gcm(…)",
        })
    }
}

impl Cipher {
    pub(super) fn new(key: &SrtpKey, usage: Use) -> Self {
        let keys = SessionKeys::of(key, usage);
        let counter = |tag| {
            Self::Counter(Box::new(Counter {
                key: counter_mode(keys.encryption.first_chunk::<16>().expect("32 are more")),
                salt: keys.salt,
                mac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &keys.authentication),
                tag,
            }))
        };
        let gcm = |algorithm: &'static Algorithm| {
            let key = keys.encryption.get(..algorithm.key_len());
            let key = key.expect("the longest key has 32 bytes");
            let salt = keys.salt.first_chunk().expect("14 are more");
            Self::gcm(algorithm, key, *salt)
        };
        match (key.suite(), usage) {
            (SrtpSuite::AesCm128HmacSha1_32, Use::Rtp) => counter(4),
            (SrtpSuite::AesCm128HmacSha1_32 | SrtpSuite::AesCm128HmacSha1_80, _) => {
                counter(RTCP_TAG)
            }
            (SrtpSuite::AeadAes128Gcm, _) => gcm(&AES_128_GCM),
            (SrtpSuite::AeadAes256Gcm, _) => gcm(&AES_256_GCM),
        }
    }

    fn gcm(algorithm: &'static Algorithm, key: &[u8], salt: [u8; 12]) -> Self {
        let key = UnboundKey::new(algorithm, key).expect("the key is as long as it must be");
        Self::Gcm {
            key: LessSafeKey::new(key),
            salt,
        }
    }

    /// Protects the packet of `len` bytes, of which `head` stay readable; tells its new length.
    pub(super) fn seal_rtp(
        &self,
        buffer: &mut [u8],
        head: usize,
        len: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SrtpError> {
        let (packet, room) = split(buffer, len)?;
        let (head, body) = split(packet, head)?;
        match self {
            Self::Counter(counter) => {
                let Counter {
                    key,
                    salt,
                    mac,
                    tag,
                } = counter.as_ref();
                let room = room.get_mut(..*tag).ok_or(SrtpError::NoRoom)?;
                apply(key, counter_block(salt, ssrc, index), body);
                room.copy_from_slice(truncated(&rtp_tag(mac, packet, index), *tag));
                Ok(len + tag)
            }
            Self::Gcm { key, salt } => {
                let room = room.get_mut(..GCM_TAG).ok_or(SrtpError::NoRoom)?;
                seal(key, nonce(salt, ssrc, index), head, body, room);
                Ok(len + GCM_TAG)
            }
        }
    }

    /// Checks and decrypts a packet; tells its plain length.
    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        head: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SrtpError> {
        match self {
            Self::Counter(counter) => {
                let Counter {
                    key,
                    salt,
                    mac,
                    tag,
                } = counter.as_ref();
                let len = before_end(packet, *tag)?;
                let (packet, tag) = split(packet, len)?;
                verify(truncated(&rtp_tag(mac, packet, index), tag.len()), tag)?;
                let (_, body) = split(packet, head)?;
                apply(key, counter_block(salt, ssrc, index), body);
                Ok(len)
            }
            Self::Gcm { key, salt } => {
                let (head, body) = split(packet, head)?;
                let nonce = nonce(salt, ssrc, index);
                let plain = key
                    .open_in_place(nonce, Aad::from(&*head), body)
                    .map_err(|_| SrtpError::Unauthentic)?;
                Ok(head.len() + plain.len())
            }
        }
    }

    /// Protects the report of `len` bytes and tells its new length.
    pub(super) fn seal_rtcp(
        &self,
        buffer: &mut [u8],
        len: usize,
        ssrc: u32,
        index: u32,
    ) -> Result<usize, SrtpError> {
        let word = (ENCRYPTED | index).to_be_bytes();
        let (packet, room) = split(buffer, len)?;
        match self {
            Self::Counter(counter) => {
                let Counter { key, salt, mac, .. } = counter.as_ref();
                let (_, body) = split(packet, RTCP_HEADER)?;
                let room = room.get_mut(..INDEX + RTCP_TAG).ok_or(SrtpError::NoRoom)?;
                let (index_room, tag_room) = split(room, INDEX)?;
                apply(key, counter_block(salt, ssrc, index.into()), body);
                index_room.copy_from_slice(&word);
                let mac = sign(mac, [packet, &word]);
                tag_room.copy_from_slice(truncated(&mac, RTCP_TAG));
                Ok(len + INDEX + RTCP_TAG)
            }
            Self::Gcm { key, salt } => {
                let room = room.get_mut(..GCM_TAG + INDEX).ok_or(SrtpError::NoRoom)?;
                let (tag_room, index_room) = split(room, GCM_TAG)?;
                index_room.copy_from_slice(&word);
                let (head, body) = split(packet, RTCP_HEADER)?;
                let covered = covered(head, word)?;
                seal(
                    key,
                    nonce(salt, ssrc, index.into()),
                    &covered,
                    body,
                    tag_room,
                );
                Ok(len + GCM_TAG + INDEX)
            }
        }
    }

    /// The index of a report, with the bit that tells whether it is encrypted. It is not believed
    /// yet.
    pub(super) fn report_index(&self, packet: &[u8]) -> Result<u32, SrtpError> {
        let (tail, tag) = match self {
            Self::Counter(_) => (RTCP_TAG, RTCP_TAG),
            Self::Gcm { .. } => (0, GCM_TAG),
        };
        let end = before_end(packet, tail)?;
        let before = packet.get(..end).ok_or(SrtpError::Malformed)?;
        match before.last_chunk() {
            Some(word) if packet.len() >= RTCP_HEADER + INDEX + tag => {
                Ok(u32::from_be_bytes(*word))
            }
            _ => Err(SrtpError::Malformed),
        }
    }

    /// Checks and decrypts a report, whose index [`Self::report_index`] told; tells its plain
    /// length.
    pub(super) fn open_rtcp(
        &self,
        packet: &mut [u8],
        ssrc: u32,
        word: u32,
    ) -> Result<usize, SrtpError> {
        let index = u64::from(word & !ENCRYPTED);
        let is_encrypted = word & ENCRYPTED != 0;
        match self {
            Self::Counter(counter) => {
                let Counter { key, salt, mac, .. } = counter.as_ref();
                let len = before_end(packet, RTCP_TAG)?;
                let (packet, tag) = split(packet, len)?;
                verify(truncated(&sign(mac, [packet, &[]]), RTCP_TAG), tag)?;
                let len = before_end(packet, INDEX)?;
                let (_, body) = split(packet, RTCP_HEADER)?;
                if is_encrypted {
                    apply(key, counter_block(salt, ssrc, index), body);
                }
                Ok(len)
            }
            Self::Gcm { key, salt } => {
                let len = before_end(packet, GCM_TAG + INDEX)?;
                let nonce = nonce(salt, ssrc, index);
                let opened = if is_encrypted {
                    let (packet, _) = split(packet, len + GCM_TAG)?;
                    let (head, body) = split(packet, RTCP_HEADER)?;
                    let covered = covered(head, word.to_be_bytes())?;
                    key.open_in_place(nonce, Aad::from(covered), body)
                } else {
                    // Tagged only: all of it and the index are covered (RFC 7714 section 9.3).
                    let (_, tail) = split(packet, len)?;
                    tail.rotate_left(GCM_TAG);
                    let (packet, tag) = split(packet, len + INDEX)?;
                    key.open_in_place(nonce, Aad::from(&*packet), tag)
                };
                opened.map_err(|_| SrtpError::Unauthentic)?;
                Ok(len)
            }
        }
    }
}

fn split(buffer: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), SrtpError> {
    buffer.split_at_mut_checked(at).ok_or(SrtpError::Malformed)
}

fn before_end(packet: &[u8], tail: usize) -> Result<usize, SrtpError> {
    packet.len().checked_sub(tail).ok_or(SrtpError::Malformed)
}

/// RFC 3711 section 4.1.1. The last two bytes count blocks.
fn counter_block(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let salt = salt
        .iter()
        .fold(0, |all, byte| all << 8 | u128::from(*byte))
        << 16;
    (salt ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16).to_be_bytes()
}

/// RFC 7714 sections 8.1 and 9.1: the same for RTP, whose index is rollovers and sequence number,
/// and for RTCP.
fn nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let source = u128::from(ssrc) << 48 | u128::from(index);
    let [_, _, _, _, source @ ..] = source.to_be_bytes();
    let mut nonce = *salt;
    for (to, from) in nonce.iter_mut().zip(source) {
        *to ^= from;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// What of an encrypted report is covered without being encrypted.
fn covered(head: &[u8], word: [u8; 4]) -> Result<[u8; 12], SrtpError> {
    let mut covered = [0; 12];
    let (start, end) = covered.split_at_mut(RTCP_HEADER);
    start.copy_from_slice(head.get(..RTCP_HEADER).ok_or(SrtpError::Malformed)?);
    end.copy_from_slice(&word);
    Ok(covered)
}

fn seal(key: &LessSafeKey, nonce: Nonce, covered: &[u8], body: &mut [u8], tag: &mut [u8]) {
    key.seal_in_place_scatter(nonce, Aad::from(covered), body, &[], tag)
        .expect("a datagram is shorter than AES-GCM allows");
}

/// The packet and the number of rollovers are covered (RFC 3711 section 4.2).
fn rtp_tag(mac: &hmac::Key, packet: &[u8], index: u64) -> hmac::Tag {
    let rollovers = (index >> 16) as u32;
    sign(mac, [packet, &rollovers.to_be_bytes()])
}

fn sign(mac: &hmac::Key, parts: [&[u8]; 2]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(mac);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

fn truncated(tag: &hmac::Tag, len: usize) -> &[u8] {
    tag.as_ref().get(..len).unwrap_or_default()
}

fn verify(expected: &[u8], tag: &[u8]) -> Result<(), SrtpError> {
    verify_slices_are_equal(expected, tag).map_err(|_| SrtpError::Unauthentic)
}

#[cfg(test)]
mod tests;
