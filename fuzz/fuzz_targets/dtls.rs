//! Two DTLS associations whose datagrams are damaged, dropped, repeated and mixed with any others: no panic, no endless
//! talk, and both come to an end.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use aftertone::media::dtls::Certificate;
use aftertone::media::dtls::DEADLINE;
use aftertone::media::dtls::Dtls;
use aftertone::media::dtls::DtlsEvent;
use aftertone::media::dtls::MAX_DATAGRAM;
use aftertone::media::dtls::Path;
use aftertone::media::sdp::DtlsRole;
use libfuzzer_sys::fuzz_target;

static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| Certificate::generate().expect("random numbers"));

/// The next bytes of the input tell what becomes of a datagram.
fn disturb(rest: &mut &[u8], datagram: &mut Vec<u8>) -> bool {
    let [what, place, value, tail @ ..] = rest else {
        return true;
    };
    *rest = tail;
    match what % 8 {
        0 => return false,
        1 => datagram.truncate(usize::from(*place)),
        2 => {
            let len = rest.len().min(usize::from(*place) * 6);
            let (any, after) = rest.split_at(len);
            *datagram = any.to_vec();
            *rest = after;
        }
        3 => datagram.extend_from_within(..),
        4 | 5 => {
            if let Some(byte) = datagram.get_mut(usize::from(*place)) {
                *byte = *value;
            }
        }
        _ => {}
    }
    true
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else {
        return;
    };
    let path = if choice & 1 == 0 { Path::Checked } else { Path::Unchecked };
    let mut now = Instant::now();
    let told = [CERTIFICATE.fingerprint().clone()];
    let mut ends = [DtlsRole::Active, DtlsRole::Passive].map(|role| Dtls::new(now, role, path, &CERTIFICATE, &told));
    let mut over = [false; 2];
    let mut sent = 0;
    let end = now + DEADLINE + Duration::from_secs(1);
    while over != [true; 2] && now < end {
        for at in 0..2 {
            let mut buffer = [0; MAX_DATAGRAM];
            while let Some(len) = ends[at].poll_transmit(&mut buffer) {
                sent += 1;
                assert!(sent < 3_000, "they talk without end");
                let mut datagram = buffer[..len].to_vec();
                if disturb(&mut rest, &mut datagram) {
                    ends[1 - at].handle(now, &datagram);
                }
            }
            if let Some(DtlsEvent::Done(_) | DtlsEvent::Failed(_)) = ends[at].poll_event() {
                over[at] = true;
            }
        }
        let next = ends.iter().filter_map(Dtls::next_timeout).min();
        now = next.map_or(end, |next| next.max(now + Duration::from_millis(1)));
        for at in &mut ends {
            at.handle_timeout(now);
        }
    }
    for at in 0..2 {
        while ends[at].poll_transmit(&mut [0; MAX_DATAGRAM]).is_some() {}
        over[at] |= matches!(ends[at].poll_event(), Some(DtlsEvent::Failed(_)));
    }
    assert_eq!(over, [true; 2], "an end neither completes nor fails");
});
