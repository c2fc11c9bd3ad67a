//! Opus: what its packets tell of themselves (RFC 6716 section 3).

/// 20 ms of digital silence in CELT, full band, mono: the shortest packet that says so.
pub(super) const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];

/// The longest packet, in ticks: 120 ms.
pub const MAX_PACKET_TICKS: u32 = 5_760;

/// The shortest frame, in ticks: 2.5 ms.
pub const SHORTEST_TICKS: u32 = 120;

/// The largest frame (RFC 6716 section 3.4, R2).
const MAX_FRAME_BYTES: usize = 1_275;

/// How many ticks a packet lasts; `None` if it breaks a rule of RFC 6716 section 3.4.
pub fn duration(packet: &[u8]) -> Option<u32> {
    let (&toc, rest) = packet.split_first()?;
    let frames = match toc & 3 {
        0 => (rest.len() <= MAX_FRAME_BYTES).then_some(1),
        1 => (rest.len() % 2 == 0 && rest.len() / 2 <= MAX_FRAME_BYTES).then_some(2),
        2 => {
            let (first, rest) = read_length(rest)?;
            let second = rest.len().checked_sub(first)?;
            (second <= MAX_FRAME_BYTES).then_some(2)
        }
        _ => counted_frames(rest),
    }?;
    let ticks = frame_ticks(toc) * frames;
    (ticks <= MAX_PACKET_TICKS).then_some(ticks)
}

/// Ticks of one frame, by the configuration in the first byte (RFC 6716 section 3.1).
pub const fn frame_ticks(toc: u8) -> u32 {
    let size = toc >> 3 & 3;
    match toc >> 3 {
        0..12 => [480, 960, 1_920, 2_880][size as usize],
        12..16 => [480, 960][(size & 1) as usize],
        _ => 120 << size,
    }
}

/// Whether a packet has no content: lost, or not sent in a pause (RFC 6716 section 3.2.1).
pub fn is_missing(packet: &[u8]) -> bool {
    match packet {
        [] | [_] => true,
        [toc, 0] => toc & 3 == 2,
        [toc, count] => toc & 3 == 3 && count & 0xC0 == 0,
        _ => false,
    }
}

/// A packet that says that its time is missing, and its ticks: as much as possible of `ticks`,
/// which are 120 at least. It is of the same mode as packets of `configuration`, the first byte of
/// one, unless that has no frame so short (RFC 7845 section 4.1).
pub(super) fn missing(configuration: u8, ticks: u64) -> (Vec<u8>, u64) {
    let config = configuration >> 3;
    let same_mode = match config {
        12..16 => config & !1..(config & !1) + 2,
        _ => config & !3..(config & !3) + 4,
    };
    let celt = match config {
        0..4 | 16..20 => 16..20,
        4..12 | 20..24 => 20..24,
        12 | 13 | 24..28 => 24..28,
        _ => 28..32,
    };
    let fits = |config: &u8| u64::from(frame_ticks(config << 3)) <= ticks;
    let candidates = [config]
        .into_iter()
        .chain(same_mode.rev())
        .chain(celt.rev());
    let config = candidates.into_iter().find(fits).unwrap_or(28);
    let toc = config << 3;
    let frame = frame_ticks(toc);
    let count = (ticks / u64::from(frame)).clamp(1, u64::from(MAX_PACKET_TICKS / frame)) as u8;
    let packet = match count {
        1 => vec![toc],
        _ => vec![toc | 3, count],
    };
    (packet, u64::from(count) * u64::from(frame))
}

/// A packet with a frame count (RFC 6716 section 3.2.5).
fn counted_frames(rest: &[u8]) -> Option<u32> {
    let (&head, mut rest) = rest.split_first()?;
    let (variable, padded, count) = (head & 0x80 != 0, head & 0x40 != 0, head & 0x3F);
    if count == 0 {
        return None;
    }
    if padded {
        let mut padding = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if byte < 255 {
                padding += usize::from(byte);
                break;
            }
            padding += 254;
        }
        rest = rest.get(..rest.len().checked_sub(padding)?)?;
    }
    if variable {
        let mut frames = 0;
        for _ in 1..count {
            let (length, after) = read_length(rest)?;
            (frames, rest) = (frames + length, after);
        }
        (rest.len().checked_sub(frames)? <= MAX_FRAME_BYTES).then_some(u32::from(count))
    } else {
        let count = usize::from(count);
        let fits = rest.len() % count == 0 && rest.len() / count <= MAX_FRAME_BYTES;
        fits.then_some(u32::from(head & 0x3F))
    }
}

/// The length of a frame, in one byte or two (RFC 6716 section 3.2.1).
fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 252 {
        return Some((first.into(), rest));
    }
    let (&second, rest) = rest.split_first()?;
    Some((usize::from(second) * 4 + usize::from(first), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_lasts_as_long_as_the_standard_says() {
        // RFC 6716 table 2, in tenths of a millisecond.
        let silk = [100, 200, 400, 600];
        let hybrid = [100, 200];
        let celt = [25, 50, 100, 200];
        let table = [silk; 3].concat();
        let table = [table, [hybrid; 2].concat(), [celt; 4].concat()].concat();
        for (config, tenths) in table.into_iter().enumerate() {
            let toc = (config as u8) << 3;
            assert_eq!(duration(&[toc]), Some(tenths * 48 / 10), "{config}");
            assert_eq!(duration(&[toc | 4, 1, 2]), Some(tenths * 48 / 10));
            assert_eq!(duration(&[toc | 1, 1, 2]), Some(2 * tenths * 48 / 10));
            assert_eq!(duration(&[toc | 2, 1, 2]), Some(2 * tenths * 48 / 10));
        }
    }

    #[test]
    fn packets_that_break_the_rules_have_no_duration() {
        const CELT_20_MS: u8 = 0xF8;
        for (packet, why) in [
            (vec![], "R1: nothing at all"),
            (vec![CELT_20_MS; 1_277], "R2: a frame too large"),
            (vec![CELT_20_MS | 1, 9], "R3: two frames of an odd length"),
            (vec![CELT_20_MS | 2], "R4: no length"),
            (vec![CELT_20_MS | 2, 252], "R4: half a length"),
            (vec![CELT_20_MS | 2, 9, 1], "R4: a length beyond the end"),
            (vec![CELT_20_MS | 3], "R6: no count"),
            (vec![CELT_20_MS | 3, 0], "R5: no frame"),
            (vec![CELT_20_MS | 3, 7], "R5: 140 ms"),
            (vec![CELT_20_MS | 3, 0x42, 255], "R6: padding without end"),
            (
                vec![CELT_20_MS | 3, 0x41, 2, 0],
                "R6: more padding than there is",
            ),
            (vec![CELT_20_MS | 3, 2, 0], "R6: unequal frames"),
            (
                vec![CELT_20_MS | 3, 0x82, 2, 0],
                "R7: a frame beyond the end",
            ),
        ] {
            assert_eq!(duration(&packet), None, "{why}");
        }
    }

    #[test]
    fn counted_frames_are_counted_whatever_is_around_them() {
        for (packet, frames) in [
            (&[0xFB, 3][..], 3),
            (&[0xFB, 3, 1, 2, 3], 3),
            (&[0xFB, 0x43, 2, 1, 2, 3, 0, 0], 3),
            (&[0xFB, 0x83, 1, 0, 9, 9, 9], 3),
            (&[0xFB, 0xC6, 1, 0, 0, 0, 0, 0, 9, 0], 6),
        ] {
            assert_eq!(duration(packet), Some(frames * 960), "{packet:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_read_as_more_than_120_ms(
            packet in proptest::collection::vec(proptest::num::u8::ANY, 0..40)
        ) {
            let ticks = duration(&packet);
            proptest::prop_assert!(ticks.is_none_or(|ticks| (120..=5_760).contains(&ticks)));
        }
    }
}
