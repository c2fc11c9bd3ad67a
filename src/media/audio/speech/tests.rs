use super::*;

use std::f64::consts::TAU;
use std::fs;

use crate::media::audio::ComfortNoise;
use crate::media::audio::g711::Law;
use crate::media::audio::tone::Tone;
use crate::media::audio::wav::read_wav;

const SECOND: usize = SAMPLE_RATE as usize;

fn noise(level: u8, samples: usize) -> Vec<i16> {
    let mut out = vec![0; samples];
    ComfortNoise::at_level(level).fill(&mut out);
    out
}

/// Noise that rises and falls four times a second as syllables do, `level` dB below overload on
/// average, and a background at `floor`.
fn speech(level: u8, floor: u8, samples: usize) -> Vec<i16> {
    let mut carrier = ComfortNoise::at_level(level.saturating_sub(3));
    let mut background = ComfortNoise::at_level(floor);
    let (mut voiced, mut rest) = (vec![0; samples], vec![0; samples]);
    carrier.fill(&mut voiced);
    background.fill(&mut rest);
    (0..samples)
        .map(|i| {
            let turn = TAU * 4.0 * i as f64 / SECOND as f64;
            let envelope = (0.5 - 0.5 * turn.cos()).powi(2);
            (f64::from(voiced[i]) * envelope) as i16 + rest[i]
        })
        .collect()
}

fn heard(parts: &[&[i16]]) -> SpeechDetector {
    let mut detector = SpeechDetector::new();
    for part in parts {
        for frame in part.chunks(FRAME_SAMPLES) {
            detector.feed(frame);
        }
    }
    detector
}

fn assert_near(position: Option<u64>, expected: usize, tolerance_ms: u64) {
    let position = position.expect("there was speech");
    let off = position.abs_diff(expected as u64) * 1_000 / u64::from(SAMPLE_RATE);
    assert!(
        off <= tolerance_ms,
        "{position} is {off} ms away from {expected}"
    );
}

#[test]
fn a_talker_is_heard_from_loud_to_very_quiet() {
    for level in [6, 15, 25, 35, 45, 50, 54] {
        let before = noise(70, SECOND);
        let voice = speech(level, 70, 2 * SECOND);
        let after = noise(70, 3 * SECOND);
        let detector = heard(&[&before, &voice, &after]);
        // The first and the last syllable fade in and out over some 50 ms.
        assert_near(detector.first_speech(), SECOND, 80);
        assert_near(detector.speech_end(), 3 * SECOND, 80);
        let spoken = detector.speech_samples() as usize;
        assert!(spoken > SECOND, "{level}: {spoken}");
        assert!(!detector.is_speaking());
    }
}

/// Sentences of the shipped prompts, which are 19.5 dB below overload, made quieter by `db`.
fn sentences(db: f64) -> Vec<Vec<i16>> {
    let gain = 10_f64.powf(-db / 20.0);
    let prompts = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts");
    [
        "en/greeting",
        "nb/mailbox-full",
        "sv/greeting-busy",
        "de/thank-you",
    ]
    .into_iter()
    .map(|name| {
        let samples = read_wav(&fs::read(format!("{prompts}/{name}.wav")).unwrap()).unwrap();
        samples
            .iter()
            .map(|s| (f64::from(*s) * gain).round() as i16)
            .collect()
    })
    .collect()
}

#[test]
fn whole_sentences_are_heard_through_both_codecs_however_quiet() {
    for quieter in [0.0, 10.0, 20.0, 30.0] {
        for (sentence, law) in sentences(quieter)
            .iter()
            .zip([Law::A, Law::Mu].iter().cycle())
        {
            let mut line = [noise(68, SECOND), sentence.clone(), noise(68, 3 * SECOND)].concat();
            let mut coded = vec![0; line.len()];
            law.encode(&line, &mut coded);
            law.decode(&coded, &mut line);

            let detector = heard(&[&line]);
            // 50 ms of silence before the speech, 150 ms after it, and a soft beginning and end.
            assert_near(detector.first_speech(), SECOND + 400, 150);
            assert_near(detector.speech_end(), SECOND + sentence.len() - 1_200, 250);
            let spoken = detector.speech_samples() as usize;
            assert!(
                spoken > sentence.len() / 2,
                "{quieter} dB: {spoken} of {}",
                sentence.len()
            );
        }
    }
}

#[test]
fn a_talker_is_heard_through_noise() {
    for (level, floor) in [(20, 35), (30, 45), (35, 50), (40, 50), (45, 58)] {
        let before = noise(floor, 2 * SECOND);
        let voice = speech(level, floor, 2 * SECOND);
        let after = noise(floor, 3 * SECOND);
        let detector = heard(&[&before, &voice, &after]);
        if floor > 40 {
            assert_near(detector.first_speech(), 2 * SECOND, 100);
            assert_near(detector.speech_end(), 4 * SECOND, 100);
        }
        assert!(
            detector.speech_samples() as usize > SECOND / 2,
            "{level} over {floor}"
        );
    }
}

#[test]
fn a_talker_who_speaks_from_the_first_sample_is_heard_from_there() {
    for level in [20, 40, 50] {
        let voice = speech(level, 70, 2 * SECOND);
        // Begins in the middle of a syllable.
        let detector = heard(&[&voice[SECOND / 8..], &noise(70, 2 * SECOND)]);
        assert_near(detector.first_speech(), 0, 20);
    }
}

#[test]
fn one_short_quiet_word_is_heard() {
    let word = speech(45, 65, SECOND / 4);
    let detector = heard(&[&noise(65, 3 * SECOND), &word, &noise(65, 5 * SECOND)]);
    assert_near(detector.first_speech(), 3 * SECOND, 80);
    assert_near(detector.speech_end(), 3 * SECOND + SECOND / 4, 80);
}

#[test]
fn comfort_noise_is_silence_at_every_usual_level() {
    for level in [43, 50, 60, 70, 127] {
        let detector = heard(&[&noise(level, 10 * SECOND)]);
        assert_eq!(detector.first_speech(), None, "{level}");
        assert_eq!(detector.speech_samples(), 0, "{level}");
        assert_eq!(detector.silent_for(), 10 * SECOND as u64);
    }
}

#[test]
fn the_noise_of_a_room_is_silence_though_it_rumbles() {
    // Noise of few frequencies is far less even than white noise.
    for cutoff in [300.0, 600.0, 1_200.0] {
        let keep = (-TAU * cutoff / f64::from(SAMPLE_RATE)).exp();
        let mut level = 0.0;
        let room = noise(40, 60 * SECOND).into_iter().map(|sample| {
            level = keep * level + (1.0 - keep) * f64::from(sample);
            level as i16
        });
        let room: Vec<i16> = room.collect();
        let detector = heard(&[&room]);
        let taken = detector.speech_samples() as usize;
        assert!(
            taken < SECOND / 10,
            "{cutoff} Hz: {taken} samples of a minute"
        );
    }
}

#[test]
fn comfort_noise_that_sets_in_is_silence_after_a_moment_of_doubt() {
    let mut detector = heard(&[&vec![0; 2 * SECOND], &noise(50, SECOND / 2)]);
    assert!(detector.is_speaking());
    detector.feed(&noise(50, 3 * SECOND));
    assert!(!detector.is_speaking());
    assert_eq!(detector.first_speech(), None);
}

#[test]
fn comfort_noise_stays_silence_after_both_codecs() {
    for law in [Law::Mu, Law::A] {
        let samples = noise(60, 5 * SECOND);
        let (mut coded, mut line) = (vec![0; samples.len()], vec![0; samples.len()]);
        law.encode(&samples, &mut coded);
        law.decode(&coded, &mut line);
        assert_eq!(heard(&[&line]).speech_samples(), 0, "{law:?}");
    }
}

#[test]
fn line_hum_and_offset_are_silence() {
    for hertz in [50.0, 60.0, 100.0] {
        let mut hum = Tone::new(hertz, 0.02).take_ms(8_000);
        for sample in &mut hum {
            *sample += 500;
        }
        let detector = heard(&[&hum]);
        // The offset sets in with a click.
        assert!(
            detector.speech_samples() < 800,
            "{hertz}: {}",
            detector.speech_samples()
        );
        assert!(detector.silent_for() as usize > 7 * SECOND);
    }
}

#[test]
fn a_quiet_talker_is_heard_over_hum() {
    let hum = Tone::new(50.0, 0.02).take_ms(6_000);
    let mut line = hum;
    for (sample, voice) in line[2 * SECOND..4 * SECOND]
        .iter_mut()
        .zip(speech(45, 70, 2 * SECOND))
    {
        *sample += voice;
    }
    let detector = heard(&[&line]);
    assert_near(detector.first_speech(), 2 * SECOND, 80);
    assert_near(detector.speech_end(), 4 * SECOND, 80);
}

#[test]
fn a_tone_is_speech_for_as_long_as_it_lasts_to_the_sample() {
    // The quieter one is 40 dB below overload.
    for amplitude in [0.1, 0.015] {
        let tone = Tone::new(1_000.0, amplitude).take_ms(20_000);
        let detector = heard(&[&vec![0; 1_234], &tone, &vec![0; 4_321]]);
        let first = detector.first_speech().unwrap();
        let end = detector.speech_end().unwrap();
        assert!(first.abs_diff(1_234) <= 2, "{first}");
        // The filter rings for a moment.
        assert!(end.abs_diff(1_234 + 160_000) <= 40, "{end}");
        assert!(detector.speech_samples() >= 160_000);
        assert_eq!(detector.silent_for(), detector.position() - end);
    }
}

#[test]
fn a_pause_between_words_is_still_speaking() {
    let voice = speech(25, 65, SECOND);
    let mut detector = heard(&[&voice, &noise(65, SECOND / 5)]);
    assert!(detector.is_speaking());
    detector.feed(&noise(65, SECOND));
    assert!(!detector.is_speaking());
}

#[test]
fn what_is_being_said_began_after_the_last_long_pause() {
    let (voice, pause) = (speech(25, 65, SECOND), noise(65, SECOND));
    let mut detector = heard(&[&pause, &voice, &pause, &voice]);
    let since = detector.speaking_since();
    assert_near(since, 3 * SECOND, 60);
    assert_near(detector.first_speech(), SECOND, 60);
    detector.feed(&noise(65, SECOND / 5));
    assert_eq!(detector.speaking_since(), since);
    detector.feed(&pause);
    assert_eq!(detector.speaking_since(), None);
}

#[test]
fn the_length_of_the_pieces_does_not_matter() {
    let line = [noise(60, 5_000), speech(35, 60, 12_345), noise(60, 9_876)].concat();
    let whole = heard(&[&line]);
    for piece in [1, 7, 80, 161, 1_000, line.len()] {
        let mut detector = SpeechDetector::new();
        line.chunks(piece)
            .for_each(|samples| detector.feed(samples));
        assert_eq!(detector.first_speech(), whole.first_speech());
        assert_eq!(detector.speech_end(), whole.speech_end());
        assert_eq!(detector.speech_samples(), whole.speech_samples());
        assert_eq!(detector.position(), line.len() as u64);
    }
}

#[test]
fn nothing_heard_is_no_speech() {
    let detector = SpeechDetector::new();
    assert_eq!(detector.first_speech(), None);
    assert_eq!(detector.speech_end(), None);
    assert!(!detector.is_speaking());
}
