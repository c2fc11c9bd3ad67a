//! Any datagrams to a call's SRTP: no panic, none is believed, and a true one still is afterwards.
#![no_main]

use aftertone::media::sdp::SrtpKey;
use aftertone::media::sdp::SrtpSuite;
use aftertone::media::srtp::MAX_OVERHEAD;
use aftertone::media::srtp::Srtp;
use libfuzzer_sys::fuzz_target;

// Each datagram has a head of two bytes: its length.
fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else {
        return;
    };
    let suite = SrtpSuite::ALL[usize::from(*choice) % SrtpSuite::ALL.len()];
    let key = |fill| SrtpKey::new(suite, &vec![fill; suite.key_and_salt_len()]).expect("as long as it must be");
    let (ours, theirs) = (key(1), key(2));
    let mut us = Srtp::new(&ours, &theirs);
    let mut peer = Srtp::new(&theirs, &ours);
    if choice & 0x80 != 0 {
        us.change_keys(Srtp::new(&ours, &theirs));
    }
    while let [high, low, tail @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])) % 1501;
        let (datagram, after) = tail.split_at(tail.len().min(len));
        assert!(us.unprotect_rtp(&mut datagram.to_vec()).is_err());
        assert!(us.unprotect_rtcp(&mut datagram.to_vec()).is_err());
        rest = after;
    }
    let mut packet = [0; 172 + MAX_OVERHEAD];
    packet[0] = 0x80;
    let len = peer.protect_rtp(&mut packet, 172).expect("a sound packet");
    assert_eq!(us.unprotect_rtp(&mut packet[..len]), Ok(172));
});
