use super::*;

use crate::media::audio::Law;
use crate::media::audio::Tone;
use crate::media::audio::tone_level;
use crate::media::audio::write_wav_at;

fn tone(rate: u32, samples: usize) -> Vec<i16> {
    let mut line = vec![0; samples];
    Tone::at_rate(1_000.0, 0.5, rate).fill(&mut line);
    line
}

fn g711(law: Law, samples: &[i16]) -> Vec<u8> {
    let mut file = wav::g711_head(law, samples.len() as u64).unwrap().to_vec();
    let start = file.len();
    file.resize(start + samples.len().next_multiple_of(2), 0);
    law.encode(samples, &mut file[start..]);
    file
}

#[test]
fn every_wav_of_ours_becomes_an_ogg_that_plays_as_long_and_as_loud() {
    let files = [
        (8_000, 12_345, write_wav_at(&tone(8_000, 12_345), 8_000)),
        (16_000, 30_001, write_wav_at(&tone(16_000, 30_001), 16_000)),
        (48_000, 96_000, write_wav_at(&tone(48_000, 96_000), 48_000)),
        (8_000, 12_345, g711(Law::A, &tone(8_000, 12_345))),
        (8_000, 160, g711(Law::Mu, &tone(8_000, 160))),
    ];
    for (rate, samples, file) in files {
        let mut ogg = Vec::new();
        wav_to_ogg(file.as_slice(), &mut ogg).unwrap();
        let expected = samples * (48_000 / rate);
        let length = ogg::length(&mut Cursor::new(&ogg)).unwrap();
        assert_eq!(length, u64::from(expected), "{rate}");

        let mut wav = Vec::new();
        ogg_to_wav(Cursor::new(&ogg), &mut wav).unwrap();
        assert_eq!(wav.len() as u32, 44 + 2 * expected);
        let (heard, heard_rate) = read_audio(&wav).unwrap();
        assert_eq!(heard_rate, 48_000);
        let level = tone_level(&heard[heard.len() / 4..], 8_000.0 / 48.0);
        assert!((level - 0.5).abs() < 0.08, "{rate}: {level}");
        let straight = read_audio(&ogg).unwrap();
        assert!(straight.0 == heard && straight.1 == 48_000);
    }
}

#[test]
fn the_pre_skip_is_the_delay_of_the_encoder() {
    let mut line = vec![0; 16_000];
    line[8_000..].copy_from_slice(&tone(16_000, 8_000));
    let mut ogg = Vec::new();
    wav_to_ogg(write_wav_at(&line, 16_000).as_slice(), &mut ogg).unwrap();
    let heard = read_audio(&ogg).unwrap().0;
    let begins = heard
        .iter()
        .position(|sample| sample.abs() > 4_000)
        .unwrap();
    assert!(begins.abs_diff(24_000) < 100, "{begins}");
}

#[test]
fn an_ogg_cut_short_is_filled_up_with_silence() {
    let mut ogg = Vec::new();
    wav_to_ogg(
        write_wav_at(&tone(8_000, 24_000), 8_000).as_slice(),
        &mut ogg,
    )
    .unwrap();
    // The last page says how long it is; one in the middle is gone.
    let pages: Vec<_> = (0..ogg.len())
        .filter(|at| ogg[*at..].starts_with(b"OggS"))
        .collect();
    let cut = [&ogg[..pages[3]], &ogg[pages[4]..]].concat();
    let mut wav = Vec::new();
    ogg_to_wav(Cursor::new(&cut), &mut wav).unwrap();
    assert_eq!(wav.len(), 44 + 2 * 144_000);
}

#[test]
fn conversions_are_the_same_each_time_and_refuse_what_is_not_ours() {
    let wav = write_wav_at(&tone(8_000, 8_000), 8_000);
    let once = || {
        let mut ogg = Vec::new();
        wav_to_ogg(wav.as_slice(), &mut ogg).unwrap();
        ogg
    };
    assert!(once() == once());
    for bad in [&b""[..], b"RIFF", &wav[..30], &[0; 100]] {
        wav_to_ogg(bad, Vec::new()).unwrap_err();
        ogg_to_wav(Cursor::new(bad), Vec::new()).unwrap_err();
    }
    wav_to_ogg(write_wav_at(&[0; 9], 44_100).as_slice(), Vec::new()).unwrap_err();
}

#[test]
fn uploads_keep_their_rate_up_to_48_khz() {
    for (rate, kept) in [
        (8_000, 8_000),
        (44_100, 44_100),
        (48_000, 48_000),
        (96_000, 48_000),
    ] {
        let file = write_wav_at(&tone(rate, rate as usize), rate);
        let (samples, at) = read_audio(&file).unwrap();
        assert_eq!((samples.len() as u32, at), (kept, kept));
    }
}
