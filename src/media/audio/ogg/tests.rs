use super::*;

use std::io::Cursor;

use crate::media::audio::Encoder;
use crate::media::audio::Tone;
use crate::media::audio::tone_level;

fn packets(count: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(Codec::Opus);
    let mut tone = Tone::at_rate(1_000.0, 0.5, TICK_RATE);
    let packet = |_| {
        let (mut frame, mut packet) = ([0; 960], Vec::new());
        tone.fill(&mut frame);
        encoder.encode(&frame, &mut packet);
        packet
    };
    (0..count).map(packet).collect()
}

fn file(write: impl FnOnce(&mut Writer<Vec<u8>>), end_ticks: u64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    write(&mut writer);
    writer.finish(end_ticks).unwrap()
}

fn decoded(file: &[u8]) -> Result<Vec<i16>, OggError> {
    let mut reader = Reader::open(Cursor::new(file))?;
    let mut samples = Vec::new();
    while reader.read(&mut samples)? {}
    Ok(samples)
}

/// Granule position and segments of each page.
fn pages(file: &[u8]) -> Vec<(u64, usize)> {
    let starts = (0..file.len()).filter(|at| file[*at..].starts_with(b"OggS\0"));
    let page = |at: usize| {
        let granule = u64::from_le_bytes(file[at + 6..at + 14].try_into().unwrap());
        (granule, usize::from(file[at + 26]))
    };
    starts.map(page).collect()
}

#[test]
fn a_file_plays_to_the_sample_what_was_put_in() {
    for (count, end) in [
        (1, 960),
        (1, 1),
        (50, 48_000),
        (120, 115_200),
        (120, 115_000),
    ] {
        let file = file(
            |writer| {
                for packet in packets(count) {
                    writer.packet(&packet).unwrap();
                }
            },
            end,
        );
        assert_eq!(length(&mut Cursor::new(&file)).unwrap(), end);
        let samples = decoded(&file).unwrap();
        assert_eq!(samples.len() as u64, end, "{count} packets");
        if count > 1 {
            let level = tone_level(&samples[4_800..], 8_000.0 / 48.0);
            assert!((level - 0.5).abs() < 0.05, "{level}");
        }
    }
}

#[test]
fn a_page_is_about_a_second() {
    let file = file(
        |writer| {
            for packet in packets(130) {
                writer.packet(&packet).unwrap();
            }
        },
        130 * 960,
    );
    let granules: Vec<_> = pages(&file)
        .into_iter()
        .map(|(granule, _)| granule)
        .collect();
    assert_eq!(granules, [0, 0, 47_160, 95_160, 124_920]);
}

#[test]
fn what_is_missing_takes_its_time_and_nothing_more() {
    let packets = packets(40);
    for gap in [120, 960, 2_880, 5_760, 48_000 + 360, 10 * 48_000] {
        let file = file(
            |writer| {
                writer.missing(240).unwrap();
                for packet in &packets[..20] {
                    writer.packet(packet).unwrap();
                }
                writer.missing(gap).unwrap();
                for packet in &packets[20..] {
                    writer.packet(packet).unwrap();
                }
            },
            240 + 40 * 960 + gap,
        );
        let samples = decoded(&file).unwrap();
        assert_eq!(samples.len() as u64, 240 + 40 * 960 + gap);
        let after = &samples[samples.len() - 10 * 960..];
        assert!(tone_level(after, 8_000.0 / 48.0) > 0.4);
        let size = file.len() as u64;
        assert!(size < 6_000 + gap / 960 * 2, "{size} bytes for {gap}");
    }
}

#[test]
fn odd_rests_of_what_is_missing_add_up() {
    let file = file(
        |writer| {
            for _ in 0..8 {
                writer.missing(100).unwrap();
            }
            assert_eq!(writer.granule, 120 + 720);
        },
        800,
    );
    assert_eq!(decoded(&file).unwrap().len(), 800);
}

#[test]
fn nothing_recorded_is_a_file_that_plays_nothing() {
    let file = file(|_| {}, 0);
    assert_eq!(length(&mut Cursor::new(&file)).unwrap(), 0);
    assert!(decoded(&file).unwrap().is_empty());
}

#[test]
fn a_recording_that_goes_on_in_silence_is_filled_up() {
    let file = file(|writer| writer.packet(&packets(1)[0]).unwrap(), 96_001);
    assert_eq!(decoded(&file).unwrap().len(), 96_001);
}

#[test]
fn missing_packets_are_of_the_mode_around_them() {
    for config in 0..32_u8 {
        for ticks in [120, 240, 480, 960, 2_880, 7_000, 1_000_000] {
            let (packet, taken) = opus::missing(config << 3 | 3, ticks);
            assert_eq!(opus::duration(&packet), Some(taken as u32));
            assert!(opus::is_missing(&packet) && taken <= ticks);
            if ticks >= 960 {
                let mode = |config: u8| (config >= 12) as u8 + (config >= 16) as u8;
                assert_eq!(mode(packet[0] >> 3), mode(config));
            }
        }
    }
}

#[test]
fn the_same_packets_make_the_same_bytes() {
    let make = || {
        file(
            |writer| packets(60).iter().for_each(|p| writer.packet(p).unwrap()),
            57_000,
        )
    };
    assert!(make() == make());
}

#[test]
fn a_damaged_file_is_refused_or_ends_early() {
    let whole = file(
        |writer| packets(100).iter().for_each(|p| writer.packet(p).unwrap()),
        96_000,
    );
    for len in (0..whole.len()).step_by(17) {
        if let Ok(samples) = decoded(&whole[..len]) {
            assert!(samples.len() <= 96_000);
        }
    }
    for at in (0..whole.len()).step_by(7) {
        for bit in [1, 0x80] {
            let mut file = whole.clone();
            file[at] ^= bit;
            if let Ok(samples) = decoded(&file) {
                assert!(samples.len() <= 96_000);
            }
        }
    }
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let mut surround = head(0, 48_000);
    surround[9] = 6;
    let mut future = head(0, 48_000);
    future[8] = 0x10;
    for (head, expected) in [
        (surround, "6 channels"),
        (future, "no Ogg Opus file"),
        (b"\x01vorbis and so on".to_vec(), "no Ogg Opus file"),
    ] {
        let mut out = PacketWriter::new(Vec::new());
        let end = PacketWriteEndInfo::EndPage;
        out.write_packet(head, SERIAL, end, 0).unwrap();
        out.write_packet(tags(), SERIAL, PacketWriteEndInfo::EndStream, 0)
            .unwrap();
        let error = decoded(&out.into_inner()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
