use super::*;

use proptest::prelude::*;

use crate::media::audio::tone::Tone;
use crate::media::audio::tone::tone_level;

/// A file with the audio `data` under the given header fields.
fn wav(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    let block = channels * bits / 8;
    file.extend((rate * u32::from(block)).to_le_bytes());
    file.extend(block.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

fn pcm16(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|s| s.to_le_bytes()).collect()
}

#[test]
fn what_was_written_reads_back_the_same() {
    let samples = [0, 1, -1, 1_000, i16::MAX, i16::MIN];
    assert_eq!(read_wav(&write_wav(&samples)).unwrap(), samples);
}

#[test]
fn every_depth_gives_the_same_audio() {
    let samples = [0_i16, 256, -256, 12_800, -12_800, 32_512, -32_768];
    let each = |f: &dyn Fn(i16) -> Vec<u8>| samples.iter().flat_map(|s| f(*s)).collect::<Vec<u8>>();
    let files = [
        wav(1, 1, 8_000, 8, &each(&|s| vec![((s >> 8) + 128) as u8])),
        wav(1, 1, 8_000, 16, &pcm16(&samples)),
        wav(
            1,
            1,
            8_000,
            24,
            &each(&|s| (i32::from(s) << 8).to_le_bytes()[..3].to_vec()),
        ),
        wav(
            1,
            1,
            8_000,
            32,
            &each(&|s| (i32::from(s) << 16).to_le_bytes().to_vec()),
        ),
        wav(
            3,
            1,
            8_000,
            32,
            &each(&|s| (f32::from(s) / 32_768.0).to_le_bytes().to_vec()),
        ),
        wav(
            3,
            1,
            8_000,
            64,
            &each(&|s| (f64::from(s) / 32_768.0).to_le_bytes().to_vec()),
        ),
    ];
    for file in files {
        assert_eq!(read_wav(&file).unwrap(), samples);
    }
}

#[test]
fn g711_is_decoded() {
    for (tag, law) in [(6, Law::A), (7, Law::Mu)] {
        let codes: Vec<u8> = (0..=255).collect();
        let mut samples = vec![0; 256];
        law.decode(&codes, &mut samples);
        assert_eq!(read_wav(&wav(tag, 1, 8_000, 8, &codes)).unwrap(), samples);
    }
}

#[test]
fn stereo_is_mixed_and_rates_are_brought_to_8_khz() {
    for rate in [8_000, 16_000, 44_100, 48_000] {
        let seconds = f64::from(rate);
        let data: Vec<u8> = (0..rate)
            .flat_map(|i| {
                let turn = std::f64::consts::TAU * f64::from(i) / seconds;
                let left = (16_000.0 * (440.0 * turn).sin()) as i16;
                let right = (16_000.0 * (1_000.0 * turn).sin()) as i16;
                pcm16(&[left, right])
            })
            .collect();
        let samples = read_wav(&wav(1, 2, rate, 16, &data)).unwrap();
        assert_eq!(samples.len(), 8_000);
        for hertz in [440.0, 1_000.0] {
            let level = tone_level(&samples, hertz);
            assert!((level - 0.244).abs() < 0.01, "{rate} {hertz}: {level}");
        }
    }
}

#[test]
fn extensible_headers_and_other_chunks_are_read() {
    let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt ".to_vec();
    file.extend(40_u32.to_le_bytes());
    file.extend(0xFFFE_u16.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(8_000_u32.to_le_bytes());
    file.extend(16_000_u32.to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(16_u16.to_le_bytes());
    file.extend([22, 0, 16, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 0, 0, 16, 0, 128, 0, 0, 170, 0, 56, 155, 113]);
    file.extend(b"data\x04\0\0\0");
    file.extend(pcm16(&[7, -7]));
    file.extend(b"junk at the end");
    assert_eq!(read_wav(&file).unwrap(), [7, -7]);
}

#[test]
fn a_pipe_that_never_knew_its_length_is_read_to_the_end() {
    let mut file = wav(1, 1, 8_000, 16, &pcm16(&[5; 100]));
    file[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read_wav(&file).unwrap(), [5; 100]);
}

#[test]
fn files_of_no_use_are_refused_with_the_reason() {
    let good = wav(1, 1, 8_000, 16, &pcm16(&[5; 100]));
    let cases = [
        (Vec::new(), WavError::NotWav),
        (b"ID3\x04 and an mp3 behind it".to_vec(), WavError::NotWav),
        (good[..12].to_vec(), WavError::NoFormat),
        (good[..30].to_vec(), WavError::NoFormat),
        (good[..36].to_vec(), WavError::NoAudio),
        (
            good[..144].to_vec(),
            WavError::Truncated {
                present: 100,
                promised: 200,
            },
        ),
        (wav(1, 1, 8_000, 16, &[]), WavError::NoAudio),
        (wav(1, 1, 8_000, 16, &[1]), WavError::NoAudio),
        (
            wav(2, 1, 8_000, 4, &[0; 100]),
            WavError::Encoding { tag: 2, bits: 4 },
        ),
        (
            wav(1, 1, 8_000, 12, &[0; 100]),
            WavError::Encoding { tag: 1, bits: 12 },
        ),
        (wav(1, 6, 48_000, 16, &[0; 100]), WavError::Channels(6)),
        (wav(1, 0, 48_000, 16, &[0; 100]), WavError::Channels(0)),
        (wav(1, 1, 0, 16, &[0; 100]), WavError::Rate(0)),
        (wav(1, 1, 192_000, 16, &[0; 100]), WavError::Rate(192_000)),
        (
            wav(7, 1, 8_000, 8, &vec![0xFF; 8_000 * 300 + 1]),
            WavError::TooLong {
                seconds: 301,
                limit: 300,
            },
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(read_wav(&file).unwrap_err(), expected);
    }
}

#[test]
fn floats_out_of_range_are_held_and_not_a_number_is_silence() {
    let data: Vec<u8> = [2.0_f32, -9.0, f32::NAN, f32::INFINITY]
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect();
    let samples = read_wav(&wav(3, 1, 8_000, 32, &data)).unwrap();
    assert_eq!(samples, [i16::MAX, i16::MIN, 0, 0]);
}

#[test]
fn a_tone_survives_the_way_through_a_file() {
    let samples = Tone::new(440.0, 0.5).take_ms(500);
    let back = read_wav(&write_wav(&samples)).unwrap();
    assert!((tone_level(&back, 440.0) - 0.5).abs() < 0.001);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        tag in prop_oneof![Just(1_u16), Just(3), Just(6), Just(0xFFFE), any::<u16>()],
        channels in 0_u16..4,
        rate in prop_oneof![Just(8_000_u32), Just(44_100), any::<u32>()],
        bits in prop_oneof![Just(8_u16), Just(16), Just(24), Just(32), any::<u16>()],
        data in proptest::collection::vec(any::<u8>(), 0..300),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let rate_field = rate % 100_000;
        let mut file = wav(tag, channels, rate_field, bits % 65, &data);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len() + 1));
        for file in [file, data] {
            if let Ok(samples) = read_wav(&file) {
                prop_assert!(!samples.is_empty() && samples.len() <= file.len());
            }
        }
    }
}
