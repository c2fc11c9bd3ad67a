use super::*;

use rand::Rng as _;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::media::sdp::SrtpSuite;

const SUITES: [SrtpSuite; 4] = SrtpSuite::ALL;

fn key(suite: SrtpSuite, of: u8) -> SrtpKey {
    let bytes: Vec<u8> = (0..suite.key_and_salt_len())
        .map(|n| n as u8 ^ of)
        .collect();
    SrtpKey::new(suite, &bytes).unwrap()
}

/// Us and the peer.
fn pair(suite: SrtpSuite) -> (Srtp, Srtp) {
    let (ours, theirs) = (key(suite, 0x30), key(suite, 0xc7));
    (Srtp::new(&ours, &theirs), Srtp::new(&theirs, &ours))
}

fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend((0..160).map(|n| n as u8 ^ sequence as u8));
    packet
}

fn report(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x81, 202, 0, 2, 1, 2, 3, 4, 1, 2, b'a', b'b']);
    packet
}

type Protect = fn(&mut Srtp, &mut [u8], usize) -> Result<usize, SrtpError>;

fn protected_by(srtp: &mut Srtp, protect: Protect, plain: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + MAX_OVERHEAD, 0xee);
    let len = protect(srtp, &mut buffer, plain.len())?;
    buffer.truncate(len);
    Ok(buffer)
}

fn protected(srtp: &mut Srtp, plain: &[u8]) -> Vec<u8> {
    protected_by(srtp, Srtp::protect_rtp, plain).unwrap()
}

fn received(srtp: &mut Srtp, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut packet = packet.to_vec();
    let len = srtp.unprotect_rtp(&mut packet)?;
    packet.truncate(len);
    Ok(packet)
}

fn received_report(srtp: &mut Srtp, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut packet = packet.to_vec();
    let len = srtp.unprotect_rtcp(&mut packet)?;
    packet.truncate(len);
    Ok(packet)
}

#[test]
fn what_one_end_protects_the_other_receives_once() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let plain = rtp(1, 100);
        let packet = protected(&mut us, &plain);
        assert_eq!(packet[..12], plain[..12], "the header stays readable");
        assert_ne!(packet[12..172], plain[12..172]);
        assert!(packet.len() <= plain.len() + MAX_OVERHEAD);
        assert_eq!(
            received(&mut us, &packet),
            Err(SrtpError::Unauthentic),
            "reflected"
        );
        assert_eq!(received(&mut peer, &packet), Ok(plain), "{suite:?}");
        assert_eq!(received(&mut peer, &packet), Err(SrtpError::Replayed));

        let plain = report(1);
        let packet = protected_by(&mut us, Srtp::protect_rtcp, &plain).unwrap();
        assert_eq!(packet[..8], plain[..8]);
        assert_ne!(packet[8..20], plain[8..20]);
        assert_eq!(received_report(&mut peer, &packet), Ok(plain), "{suite:?}");
        assert_eq!(
            received_report(&mut peer, &packet),
            Err(SrtpError::Replayed)
        );
    }
}

/// rtc-srtp, which others wrote, on the other side.
#[test]
fn what_we_protect_another_implementation_understands_and_the_reverse() {
    use rtc_srtp::context::Context;
    use rtc_srtp::protection_profile::ProtectionProfile;

    let crypto = rtc_crypto::providers::AwsLcRsCrypto;
    let profiles = [
        (
            SrtpSuite::AesCm128HmacSha1_80,
            ProtectionProfile::Aes128CmHmacSha1_80,
        ),
        (
            SrtpSuite::AesCm128HmacSha1_32,
            ProtectionProfile::Aes128CmHmacSha1_32,
        ),
        (SrtpSuite::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
        (SrtpSuite::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
    ];
    for (suite, profile) in profiles {
        let context = |key: &SrtpKey| {
            let (key, salt) = key.bytes().split_at(profile.key_len());
            Context::new(key, salt, profile, None, None, &crypto).unwrap()
        };
        let (ours, theirs) = (key(suite, 0x30), key(suite, 0xc7));
        let mut us = Srtp::new(&ours, &theirs);
        let (mut their_receiving, mut their_sending) = (context(&ours), context(&theirs));
        for sequence in (65_530..=65_535).chain(0..6) {
            let plain = rtp(5, sequence);
            let opened = their_receiving
                .decrypt_rtp(&protected(&mut us, &plain))
                .unwrap();
            assert_eq!(opened, plain, "{suite:?}");
            let sealed = their_sending.encrypt_rtp(&plain).unwrap();
            assert_eq!(received(&mut us, &sealed), Ok(plain), "{suite:?}");
        }
        let plain = report(5);
        let packet = protected_by(&mut us, Srtp::protect_rtcp, &plain).unwrap();
        assert_eq!(
            their_receiving.decrypt_rtcp(&packet).unwrap(),
            plain,
            "{suite:?}"
        );
        let sealed = their_sending.encrypt_rtcp(&plain).unwrap();
        assert_eq!(received_report(&mut us, &sealed), Ok(plain), "{suite:?}");
    }
}

#[test]
fn every_bit_of_a_packet_counts() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let packet = protected(&mut us, &rtp(1, 100));
        let control = protected_by(&mut us, Srtp::protect_rtcp, &report(1)).unwrap();
        for bit in 0..packet.len() * 8 {
            let mut forged = packet.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(received(&mut peer, &forged).is_err(), "{suite:?} bit {bit}");
        }
        for bit in 0..control.len() * 8 {
            let mut forged = control.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                received_report(&mut peer, &forged).is_err(),
                "{suite:?} bit {bit}"
            );
        }
        assert!(peer.receiver.media.len() + peer.receiver.reports.len() == 0);
        assert!(received(&mut peer, &packet).is_ok());
        assert!(received_report(&mut peer, &control).is_ok());
    }
}

#[test]
fn late_packets_around_the_rollover_are_received() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let sequences = (65_500..=65_535).chain(0..=40);
        let packets: Vec<_> = sequences.map(|n| protected(&mut us, &rtp(9, n))).collect();
        let mut order: Vec<usize> = (1..packets.len()).collect();
        order.chunks_mut(12).for_each(<[usize]>::reverse);
        assert!(received(&mut peer, &packets[0]).is_ok());
        for at in order {
            assert!(
                received(&mut peer, &packets[at]).is_ok(),
                "{suite:?} packet {at}"
            );
            assert_eq!(received(&mut peer, &packets[at]), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn many_rollovers_are_followed() {
    let (mut us, mut peer) = pair(SrtpSuite::AeadAes128Gcm);
    for step in 0..30_u32 {
        let plain = rtp(9, (step * 20_000) as u16);
        let packet = protected(&mut us, &plain);
        assert_eq!(received(&mut peer, &packet), Ok(plain), "step {step}");
    }
}

#[test]
fn a_source_first_heard_after_its_rollover_is_received() {
    let (mut us, mut peer) = pair(SrtpSuite::AeadAes256Gcm);
    let before = protected(&mut us, &rtp(9, 65_535));
    let after = protected(&mut us, &rtp(9, 1));
    assert!(received(&mut peer, &after).is_ok());
    assert!(received(&mut peer, &before).is_ok(), "late");
    assert_eq!(received(&mut peer, &after), Err(SrtpError::Replayed));
}

#[test]
fn a_new_source_of_the_true_peer_is_received_and_forged_ones_leave_nothing() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let first = protected(&mut us, &rtp(1, 100));
        assert!(received(&mut peer, &first).is_ok());
        for ssrc in 1_000..3_000_u32 {
            let mut forged = first.clone();
            forged[8..12].copy_from_slice(&ssrc.to_be_bytes());
            assert_eq!(received(&mut peer, &forged), Err(SrtpError::Unauthentic));
        }
        assert_eq!(peer.receiver.media.len(), 1);
        // A transfer behind the peer: the same key, another source.
        us.sender.last = None;
        let other = protected(&mut us, &rtp(2, 7));
        assert!(received(&mut peer, &other).is_ok());
        assert_eq!(received(&mut peer, &first), Err(SrtpError::Replayed));
    }
}

#[test]
fn the_sources_of_one_key_are_bounded() {
    let (mut us, mut peer) = pair(SrtpSuite::AeadAes128Gcm);
    for ssrc in 0..40 {
        us.sender.last = None;
        let packet = protected(&mut us, &rtp(ssrc, 1));
        let expected = if ssrc < 16 {
            Ok(())
        } else {
            Err(SrtpError::TooManySources)
        };
        assert_eq!(received(&mut peer, &packet).map(drop), expected);
    }
    assert_eq!(peer.receiver.media.len(), MAX_SOURCES);
}

#[test]
fn no_key_stream_is_used_twice() {
    let (mut us, _) = pair(SrtpSuite::AesCm128HmacSha1_80);
    protected(&mut us, &rtp(1, 100));
    for again in [rtp(1, 100), rtp(1, 99)] {
        let refused = protected_by(&mut us, Srtp::protect_rtp, &again);
        assert_eq!(refused, Err(SrtpError::OutOfOrder));
    }
    us.sender.last = Some((1, (1 << 48) - 1));
    let refused = protected_by(&mut us, Srtp::protect_rtp, &rtp(1, 0));
    assert_eq!(refused, Err(SrtpError::KeyUsedUp));
    us.sender.next_report = ENCRYPTED - 1;
    assert!(protected_by(&mut us, Srtp::protect_rtcp, &report(1)).is_ok());
    let refused = protected_by(&mut us, Srtp::protect_rtcp, &report(1));
    assert_eq!(refused, Err(SrtpError::KeyUsedUp));
}

#[test]
fn without_room_for_the_tag_nothing_is_sent() {
    for suite in SUITES {
        let (mut us, _) = pair(suite);
        let plain = rtp(1, 1);
        let mut tight = plain.clone();
        tight.extend([0; 3]);
        assert_eq!(
            us.protect_rtp(&mut tight, plain.len()),
            Err(SrtpError::NoRoom)
        );
        assert_eq!(us.protect_rtp(&mut tight, 900), Err(SrtpError::Malformed));
        let mut tight = report(1);
        let len = tight.len();
        tight.extend([0; 7]);
        assert_eq!(us.protect_rtcp(&mut tight, len), Err(SrtpError::NoRoom));
    }
}

#[test]
fn new_keys_take_over_without_a_gap() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let mut late: Vec<_> = (0..10).map(|n| protected(&mut us, &rtp(1, n))).collect();
        let (first, last) = (late.remove(0), late.pop().unwrap());
        assert!(received(&mut peer, &first).is_ok());

        let (ours, theirs) = (key(suite, 0x99), key(suite, 0x55));
        peer.change_keys(Srtp::new(&theirs, &ours));
        for packet in &late[..4] {
            assert!(
                received(&mut peer, packet).is_ok(),
                "{suite:?}: the sender has not changed"
            );
        }
        let old_report = protected_by(&mut us, Srtp::protect_rtcp, &report(1)).unwrap();
        us.change_keys(Srtp::new(&ours, &theirs));
        for n in 10..12 {
            assert!(received(&mut peer, &protected(&mut us, &rtp(1, n))).is_ok());
        }
        assert!(received_report(&mut peer, &old_report).is_ok());
        for packet in &late[4..] {
            assert!(
                received(&mut peer, packet).is_ok(),
                "{suite:?}: late under the old keys"
            );
        }
        assert_eq!(received(&mut peer, &first), Err(SrtpError::Replayed));
        for n in 12..120 {
            assert!(received(&mut peer, &protected(&mut us, &rtp(1, n))).is_ok());
        }
        assert!(peer.former.is_none());
        assert_eq!(received(&mut peer, &last), Err(SrtpError::Unauthentic));
    }
}

/// A new offer often brings another key of the peer's, and ours stays.
#[test]
fn the_direction_whose_key_stays_goes_on_where_it_was() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        us.sender.last = Some((1, 3 << 16 | 9));
        let replayed = protected(&mut us, &rtp(1, 10));
        let first_report = protected_by(&mut us, Srtp::protect_rtcp, &report(1)).unwrap();
        let (ours, theirs) = (key(suite, 0x30), key(suite, 0x55));
        us.change_keys(Srtp::new(&ours, &theirs));
        assert_eq!(us.sender.last, Some((1, 3 << 16 | 10)));
        let second_report = protected_by(&mut us, Srtp::protect_rtcp, &report(1)).unwrap();
        assert_ne!(
            first_report, second_report,
            "{suite:?}: the same key stream"
        );

        // At the other end it is the receiving key that stays.
        peer.receiver.media.add(1, 3 << 16);
        assert!(received(&mut peer, &replayed).is_ok());
        peer.change_keys(Srtp::new(&theirs, &ours));
        assert_eq!(received(&mut peer, &replayed), Err(SrtpError::Replayed));
        assert!(received(&mut peer, &protected(&mut us, &rtp(1, 11))).is_ok());

        // Nor does a key that comes back bring back what was received under it.
        peer.change_keys(Srtp::new(&theirs, &key(suite, 0x77)));
        peer.change_keys(Srtp::new(&theirs, &ours));
        assert_eq!(received(&mut peer, &replayed), Err(SrtpError::Replayed));
    }
}

/// Another clock is another SSRC (RFC 7160 section 4.1), under the same key.
#[test]
fn another_stream_of_ours_is_protected_and_the_one_before_never_again() {
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        for (ssrc, sequence) in [
            (1, 40_000),
            (1, 40_001),
            (2, 40_002),
            (2, 40_003),
            (3, 40_004),
        ] {
            let packet = protected(&mut us, &rtp(ssrc, sequence));
            assert!(received(&mut peer, &packet).is_ok(), "{suite:?} {ssrc}");
        }
        for left in [1, 2] {
            let refused = protected_by(&mut us, Srtp::protect_rtp, &rtp(left, 40_005));
            assert_eq!(refused, Err(SrtpError::OutOfOrder));
        }
        assert!(received(&mut peer, &protected(&mut us, &rtp(3, 40_005))).is_ok());
    }
}

#[test]
fn headers_with_csrcs_and_extensions_stay_readable() {
    let (mut us, mut peer) = pair(SrtpSuite::AeadAes128Gcm);
    let mut plain = vec![0x92, 0x80, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1];
    plain.extend([1; 8]);
    plain.extend([0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0]);
    plain.extend([7; 20]);
    let packet = protected(&mut us, &plain);
    assert_eq!(packet[..28], plain[..28]);
    assert_ne!(packet[28..48], plain[28..48]);
    assert_eq!(received(&mut peer, &packet), Ok(plain));
}

#[test]
fn any_bytes_are_refused_without_a_panic() {
    let seed = std::env::var("SIM_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    for suite in SUITES {
        let (mut us, mut peer) = pair(suite);
        let mut other = pair(suite).0;
        other.change_keys(Srtp::new(&key(suite, 1), &key(suite, 2)));
        let packet = protected(&mut us, &rtp(1, 1));
        let control = protected_by(&mut us, Srtp::protect_rtcp, &report(1)).unwrap();
        for round in 0..4_000 {
            let mut bytes = match round % 4 {
                0 => packet.clone(),
                1 => control.clone(),
                _ => {
                    let mut bytes = vec![0; random.random_range(0..=1500)];
                    random.fill_bytes(&mut bytes);
                    bytes
                }
            };
            if round % 4 < 2 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            if let (Some(first), true) = (bytes.first_mut(), random.random()) {
                *first = 0x80 | *first & 0x3f;
            }
            for srtp in [&mut peer, &mut other] {
                assert!(srtp.unprotect_rtp(&mut bytes.clone()).is_err());
                assert!(srtp.unprotect_rtcp(&mut bytes.clone()).is_err());
            }
            let len = random.random_range(0..=bytes.len() + 1);
            for protect in [Srtp::protect_rtp, Srtp::protect_rtcp] {
                if let Ok(now) = protect(&mut other, &mut bytes.clone(), len) {
                    assert!(len < now && now <= bytes.len());
                }
            }
        }
        assert!(peer.receiver.media.len() + peer.receiver.reports.len() == 0);
    }
}
