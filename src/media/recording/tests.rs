use std::io::Cursor;

use super::*;

use crate::media::audio::Codec;
use crate::media::audio::Encoder;
use crate::media::audio::Law;
use crate::media::audio::Tone;
use crate::media::audio::convert;
use crate::media::audio::read_wav;
use crate::media::audio::tone_level;

/// Ticks of a frame of 20 ms.
const FRAME: u64 = 960;

/// Records of one codec: the frame in which each begins, what was lost before it, its payload.
fn log(codec: Codec, packets: &[(u64, u8, Vec<u8>)]) -> Vec<u8> {
    let mut log = Vec::new();
    for (frame, lost, payload) in packets {
        let at = frame * FRAME;
        let what = What::Audio(codec, payload);
        Record {
            at,
            lost: *lost,
            what,
        }
        .write(&mut log);
    }
    log
}

/// A tone, in frames of 20 ms.
fn tone(codec: Codec, frames: usize) -> Vec<Vec<u8>> {
    let rate = codec.sample_rate();
    let mut tone = Tone::at_rate(440.0, 0.25, rate);
    let mut encoder = Encoder::new(codec);
    let frame = || {
        let (mut samples, mut payload) = (vec![0; rate as usize / 50], Vec::new());
        tone.fill(&mut samples);
        encoder.encode(&samples, &mut payload);
        payload
    };
    std::iter::repeat_with(frame).take(frames).collect()
}

fn stored(log: &[u8], keep: u64) -> (Stored, Vec<u8>) {
    let mut file = Vec::new();
    let stored = store(Cursor::new(log), keep, &mut file).unwrap();
    (stored, file)
}

fn heard(log: &[u8], rate: u32) -> Vec<i16> {
    let mut samples = Vec::new();
    Samples::new(rate).feed(log, &mut samples);
    samples
}

#[test]
fn what_is_written_is_read_in_memory_and_in_pieces() {
    let mut bytes = log(Codec::Pcma, &[(0, 0, vec![1; 160]), (3, 2, vec![2; 80])]);
    let noise = Record {
        at: 7 * FRAME,
        lost: 0,
        what: What::Noise(60),
    };
    noise.write(&mut bytes);
    for n in 0..1_000 {
        bytes.extend(log(Codec::Pcmu, &[(8 + n, 0, vec![n as u8; 160])]));
    }
    let all: Vec<_> = records(&bytes).collect();
    assert_eq!(all.len(), 1_003);
    assert_eq!(
        (all[1].at, all[1].lost, all[1].ticks()),
        (3 * FRAME, 2, FRAME / 2)
    );
    assert_eq!(all[2], noise);
    assert_eq!(all[1_002].what, What::Audio(Codec::Pcmu, &[231; 160]));
    assert_eq!(all.iter().map(Record::bytes).sum::<usize>(), bytes.len());
    let mut reader = Reader::new(&bytes[..]);
    for record in &all {
        assert_eq!(reader.read().unwrap().as_ref(), Some(record));
    }
    assert_eq!(reader.read().unwrap(), None);
    assert_eq!(ticks(&bytes[..]).unwrap(), 1_008 * FRAME);
}

#[test]
fn a_torn_end_costs_no_more_than_its_record() {
    let whole = log(Codec::Pcma, &[(0, 0, vec![1; 160]), (1, 0, vec![2; 160])]);
    for cut in 0..whole.len() {
        let there = records(&whole[..cut]).count();
        assert_eq!(there, cut / 168, "{cut}");
        assert_eq!(ticks(&whole[..cut]).unwrap(), there as u64 * FRAME);
    }
    // A disk that lost its power shows zeros where the rest was to be.
    let zeros = [&whole[..168], &[0; 500]].concat();
    assert_eq!(records(&zeros).count(), 1);
    let nonsense = [&whole[..], &[0xEE; 500]].concat();
    assert_eq!(records(&nonsense).count(), 2);
}

#[test]
fn g711_of_one_law_is_kept_code_by_code_and_lost_time_is_silent() {
    for (codec, law) in [(Codec::Pcma, Law::A), (Codec::Pcmu, Law::Mu)] {
        let bytes = log(codec, &[(0, 0, vec![1; 160]), (3, 1, vec![2; 160])]);
        let (stored, file) = stored(&bytes, 3 * FRAME + 6 * 11);
        assert_eq!(stored.format, Format::WavG711(law));
        assert_eq!((stored.sample_rate, stored.ticks), (8_000, 3 * FRAME + 66));
        let silence = [law.silence(); 320];
        assert_eq!(
            file[58..],
            [&[1; 160][..], &silence, &[2; 11], &[0]].concat()
        );
        let decoded = read_wav(&file).unwrap();
        assert_eq!(decoded[..160], [law.sample(1); 160]);
        // One packet was lost; the other frame was a pause.
        let gap = Gap {
            at: 2 * FRAME,
            ticks: FRAME,
        };
        assert_eq!(stored.losses.gaps(), [gap]);
        assert_eq!(stored.losses.ticks(), FRAME);
    }
}

#[test]
fn opus_is_kept_packet_by_packet_with_its_exact_length() {
    let packets = tone(Codec::Opus, 50);
    let (bytes, missing): (Vec<_>, _) = (log_of(&packets, &[20, 21]), 2 * FRAME);
    let (stored, file) = stored(&bytes, 50 * FRAME - 333);
    assert_eq!(
        (stored.format, stored.sample_rate),
        (Format::OggOpus, 48_000)
    );
    assert_eq!(stored.ticks, 50 * FRAME - 333);
    assert_eq!(stored.losses.ticks(), missing);
    for packet in [&packets[0], &packets[30], &packets[49]] {
        let found = file.windows(packet.len()).any(|window| window == packet);
        assert!(found, "a packet was changed");
    }
    let mut wav = Cursor::new(Vec::new());
    convert::ogg_to_wav(Cursor::new(&file), &mut wav).unwrap();
    let wav = wav.into_inner();
    assert_eq!(wav.len() as u64, 44 + 2 * (50 * FRAME - 333));
}

/// Opus packets one after the other, without those that were lost.
fn log_of(packets: &[Vec<u8>], lost: &[usize]) -> Vec<u8> {
    let mut missing = 0;
    let mut kept = Vec::new();
    for (frame, packet) in packets.iter().enumerate() {
        if lost.contains(&frame) {
            missing += 1;
            continue;
        }
        kept.push((frame as u64, std::mem::take(&mut missing), packet.clone()));
    }
    log(Codec::Opus, &kept)
}

#[test]
fn mixtures_noise_and_g722_become_samples_of_the_highest_rate() {
    let opus = tone(Codec::Opus, 50);
    let mut mixed = log_of(&opus, &[]);
    let pcma = tone(Codec::Pcma, 50).into_iter().enumerate();
    let pcma: Vec<_> = pcma.map(|(n, packet)| (50 + n as u64, 0, packet)).collect();
    mixed.extend(log(Codec::Pcma, &pcma));
    let (stored_mixed, file) = stored(&mixed, u64::MAX);
    assert_eq!(stored_mixed.codecs, [Codec::Opus, Codec::Pcma]);
    assert_eq!(stored_mixed.format, Format::WavPcm);
    assert_eq!(
        (stored_mixed.sample_rate, stored_mixed.ticks),
        (48_000, 100 * FRAME)
    );
    assert_eq!(file.len() as u64, 44 + 2 * 100 * FRAME);
    let narrow = heard(&mixed, 8_000);
    assert_eq!(narrow.len(), 16_000);
    for second in narrow.chunks(8_000) {
        let level = tone_level(&second[800..7_200], 440.0);
        assert!((0.15..0.35).contains(&level), "{level}");
    }

    let g722: Vec<_> = tone(Codec::G722, 50)
        .into_iter()
        .zip(0..)
        .map(|(p, n)| (n, 0, p))
        .collect();
    let (stored_wide, file) = stored(&log(Codec::G722, &g722), u64::MAX);
    assert_eq!(
        (stored_wide.format, stored_wide.sample_rate),
        (Format::WavPcm, 16_000)
    );
    assert_eq!(file.len(), 44 + 2 * 16_000);

    let mut noisy = log(Codec::Pcmu, &[(0, 0, vec![9; 160])]);
    let at = FRAME;
    Record {
        at,
        lost: 0,
        what: What::Noise(40),
    }
    .write(&mut noisy);
    noisy.extend(log(Codec::Pcmu, &[(50, 0, vec![9; 160])]));
    let (stored_noise, file) = stored(&noisy, u64::MAX);
    assert_eq!(
        (stored_noise.format, stored_noise.sample_rate),
        (Format::WavPcm, 8_000)
    );
    let samples = read_wav(&file).unwrap();
    let loud = samples[160..8_000]
        .iter()
        .filter(|sample| **sample != 0)
        .count();
    assert!(loud > 7_000, "noise goes on through the gap: {loud}");
    assert!(stored_noise.losses.gaps().is_empty());
}

#[test]
fn lost_opus_is_made_up_and_a_long_pause_is_silent() {
    let packets = tone(Codec::Opus, 60);
    let lost = heard(&log_of(&packets, &[30]), 8_000);
    assert_eq!(lost.len(), 60 * 160);
    let level = |frame: usize| tone_level(&lost[frame * 160..][..160], 440.0);
    assert!(level(30) > 0.4 * level(28), "{} {}", level(30), level(28));

    let mut paused = log_of(&packets, &[]);
    let last = (60 + 500, 0, packets[59].clone());
    paused.extend(log(Codec::Opus, &[last]));
    let heard = heard(&paused, 8_000);
    assert_eq!(heard.len(), 561 * 160);
    assert!(
        heard[200 * 160..550 * 160]
            .iter()
            .all(|sample| *sample == 0)
    );
}

#[test]
fn where_packets_overlap_the_first_one_is_heard_and_no_time_is_added() {
    let bytes = [
        log(Codec::Pcma, &[(0, 0, vec![1; 240])]),
        log(Codec::Pcma, &[(1, 0, vec![2; 160]), (0, 0, vec![3; 160])]),
    ]
    .concat();
    let samples = heard(&bytes, 8_000);
    assert_eq!(samples.len(), 320);
    assert_eq!(samples[..240], [Law::A.sample(1); 240]);
    assert_eq!(samples[240..], [Law::A.sample(2); 80]);
    assert_eq!(read_wav(&stored(&bytes, u64::MAX).1).unwrap(), samples);
}

#[test]
fn no_gap_is_forgotten_in_the_sum() {
    let packets: Vec<_> = (0..300).map(|n| (2 * n, 1, vec![1; 160])).collect();
    let (stored, _) = stored(&log(Codec::Pcma, &packets), u64::MAX);
    assert_eq!(stored.losses.gaps().len(), 200);
    assert_eq!(stored.losses.ticks(), 299 * FRAME);
}

#[test]
fn an_empty_log_is_an_empty_file() {
    let (stored, file) = stored(&[], u64::MAX);
    assert_eq!((stored.ticks, file.len()), (0, 44));
}

proptest::proptest! {
    #[test]
    fn no_log_panics_and_none_becomes_longer_than_asked(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
        records in proptest::collection::vec((2..6_u8, 0..200_u8, proptest::num::u32::ANY), 0..8),
    ) {
        let mut log = Vec::new();
        for (kind, len, at) in records {
            log.extend([kind, 1, len, 0]);
            log.extend((at % 100_000).to_le_bytes());
            log.extend(bytes.iter().cycle().take(if bytes.is_empty() { 0 } else { len.into() }));
        }
        log.extend(&bytes);
        let keep = 96_000;
        let (stored, _) = stored(&log, keep);
        proptest::prop_assert!(stored.ticks <= keep);
    }
}
