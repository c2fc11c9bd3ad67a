//! Files and payloads of ours, judged by software that others wrote: ffmpeg, sox, opus-tools.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use aftertone::media::audio::Codec;
use aftertone::media::audio::Decoder;
use aftertone::media::audio::Encoder;
use aftertone::media::audio::Law;
use aftertone::media::audio::Tone;
use aftertone::media::audio::convert;
use aftertone::media::audio::ogg;
use aftertone::media::audio::read_audio;
use aftertone::media::audio::tone_level;
use aftertone::media::audio::wav;
use aftertone::media::audio::write_wav_at;

use support::peers;

const HERTZ: f64 = 1_000.0;

/// Runs a judge, which must succeed and have nothing to complain of.
fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    let complaint = said.to_ascii_lowercase();
    for word in ["warning", "error", "invalid", "corrupt"] {
        assert!(!complaint.contains(word), "{arguments:?}: {said}");
    }
    said
}

/// A folder for the files of one test.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn samples(&self, name: &str) -> (Vec<i16>, u32) {
        read_audio(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// What opusdec hears in a file, at 48 kHz.
    fn decode(&self, opusdec: &Path, file: &str) -> (Vec<i16>, u32) {
        let heard = self.path("heard.wav");
        let rate = ["--rate", "48000"];
        run(
            opusdec,
            &[&["--quiet", "--force-wav"], &rate[..], &[file, &heard]].concat(),
        );
        self.samples("heard.wav")
    }
}

fn tone(rate: u32, ms: u32) -> Vec<i16> {
    let mut samples = vec![0; (rate / 1_000 * ms) as usize];
    Tone::at_rate(HERTZ, 0.5, rate).fill(&mut samples);
    samples
}

/// Whether a stretch is the tone as loud as it was sent.
fn assert_tone(samples: &[i16], rate: u32) {
    let level = tone_level(samples, HERTZ * 8_000.0 / f64::from(rate));
    assert!((level - 0.5).abs() < 0.06, "{level}");
}

fn opus_packets(count: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(Codec::Opus);
    let voice = tone(48_000, 20 * count as u32);
    let frames = voice.chunks(960);
    frames
        .map(|frame| {
            let mut packet = Vec::new();
            encoder.encode(frame, &mut packet);
            packet
        })
        .collect()
}

/// Two seconds, a loss of 100 ms, half a second, a pause of three, and two seconds cut at the end.
fn recording() -> (Vec<u8>, usize) {
    let packets = opus_packets(225);
    let mut writer = ogg::Writer::new(Vec::new()).unwrap();
    for packet in &packets[..100] {
        writer.packet(packet).unwrap();
    }
    writer.missing(4_800).unwrap();
    for packet in &packets[100..125] {
        writer.packet(packet).unwrap();
    }
    writer.missing(3 * 48_000).unwrap();
    for packet in &packets[125..] {
        writer.packet(packet).unwrap();
    }
    let ticks = 225 * 960 + 4_800 + 3 * 48_000 - 700;
    (writer.finish(ticks).unwrap(), ticks as usize)
}

fn assert_is_recording(samples: &[i16], rate: u32, ticks: usize) {
    assert_eq!(samples.len(), ticks / (48_000 / rate) as usize);
    let second = rate as usize;
    assert_tone(&samples[second / 4..2 * second], rate);
    assert_tone(&samples[samples.len() - second..], rate);
    let pause = &samples[4 * second..5 * second];
    assert!(pause.iter().all(|sample| sample.abs() < 200));
}

#[test]
fn opusinfo_finds_nothing_wrong_with_a_recording() {
    let Some(opusinfo) = peers::find("opusinfo") else {
        return;
    };
    let desk = Desk::new();
    let (file, _) = recording();
    let said = run(&opusinfo, &[&desk.put("message.opus", &file)]);
    assert!(said.contains("Playback length: 0m:07.585s"), "{said}");
    assert!(said.contains("Pre-skip: 120"), "{said}");
}

#[test]
fn opusdec_hears_a_recording_to_the_sample() {
    let Some(opusdec) = peers::find("opusdec") else {
        return;
    };
    let desk = Desk::new();
    let (file, ticks) = recording();
    let path = desk.put("message.opus", &file);
    let (heard, rate) = desk.decode(&opusdec, &path);
    assert_is_recording(&heard, rate, ticks);
}

#[test]
fn ffmpeg_hears_a_recording_to_the_sample_and_we_hear_the_same() {
    let Some(ffmpeg) = peers::find("ffmpeg") else {
        return;
    };
    let desk = Desk::new();
    let (file, ticks) = recording();
    let path = desk.put("message.opus", &file);
    let heard = desk.path("heard.wav");
    run(
        &ffmpeg,
        &[
            "-v",
            "warning",
            "-c:a",
            "libopus",
            "-i",
            &path,
            "-c:a",
            "pcm_s16le",
            "-bitexact",
            &heard,
        ],
    );
    let (theirs, rate) = desk.samples("heard.wav");
    assert_is_recording(&theirs, rate, ticks);

    let mut wav = Vec::new();
    convert::ogg_to_wav(fs::File::open(&path).unwrap(), &mut wav).unwrap();
    let (ours, _) = read_audio(&wav).unwrap();
    assert_is_recording(&ours, 48_000, ticks);
    let second = 48_000;
    let apart = ours[..2 * second].iter().zip(&theirs);
    let most = apart.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(most <= 4, "{most}");
}

#[test]
fn what_is_converted_to_ogg_plays_as_long_and_as_loud() {
    let (Some(opusinfo), Some(opusdec)) = (peers::find("opusinfo"), peers::find("opusdec")) else {
        return;
    };
    for rate in [8_000, 16_000, 48_000] {
        let desk = Desk::new();
        let samples = tone(rate, 2_345);
        let mut file = Vec::new();
        convert::wav_to_ogg(write_wav_at(&samples, rate).as_slice(), &mut file).unwrap();
        let path = desk.put("message.opus", &file);
        run(&opusinfo, &[&path]);
        let (heard, _) = desk.decode(&opusdec, &path);
        assert_eq!(heard.len(), 2_345 * 48);
        assert_tone(&heard[9_600..100_000], 48_000);
    }
}

#[test]
fn uploads_made_by_others_are_read() {
    let Some(ffmpeg) = peers::find("ffmpeg") else {
        return;
    };
    let desk = Desk::new();
    let source = desk.put("source.wav", &write_wav_at(&tone(48_000, 3_000), 48_000));
    for (name, options) in [
        (
            "stereo.opus",
            &["-ac", "2", "-c:a", "libopus", "-b:a", "96k"][..],
        ),
        (
            "long-frames.opus",
            &[
                "-c:a",
                "libopus",
                "-frame_duration",
                "60",
                "-application",
                "voip",
            ],
        ),
        (
            "short-frames.opus",
            &["-c:a", "libopus", "-frame_duration", "2.5"],
        ),
        ("mulaw.wav", &["-ar", "8000", "-c:a", "pcm_mulaw"]),
        ("alaw.wav", &["-ar", "8000", "-c:a", "pcm_alaw"]),
        ("float.wav", &["-ar", "44100", "-c:a", "pcm_f32le"]),
        (
            "deep.wav",
            &["-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le"],
        ),
    ] {
        let made = desk.path(name);
        run(
            &ffmpeg,
            &[&["-v", "error", "-i", &source], options, &[&made]].concat(),
        );
        let (samples, rate) = desk.samples(name);
        let ms = samples.len() as u64 * 1_000 / u64::from(rate);
        assert_eq!(ms, 3_000, "{name}");
        let middle = &samples[rate as usize / 2..2 * rate as usize];
        let level = tone_level(middle, HERTZ * 8_000.0 / f64::from(rate));
        // ffmpeg makes 3 dB less of each when it makes two channels of one.
        let expected = if options.contains(&"-ac") { 0.354 } else { 0.5 };
        assert!((level - expected).abs() < 0.06, "{name}: {level}");
    }
}

#[test]
fn our_wavs_are_wavs() {
    let (Some(sox), Some(ffmpeg)) = (peers::find("sox"), peers::find("ffmpeg")) else {
        return;
    };
    let desk = Desk::new();
    let codes = |law: Law, count: usize| {
        let samples = &tone(8_000, 1_000)[..count];
        let mut file = wav::g711_head(law, count as u64).unwrap().to_vec();
        let start = file.len();
        file.resize(start + count.next_multiple_of(2), 0);
        law.encode(samples, &mut file[start..]);
        file
    };
    for (name, file, rate, count) in [
        ("mu.wav", codes(Law::Mu, 8_000), 8_000, 8_000),
        ("a.wav", codes(Law::A, 7_999), 8_000, 7_999),
        (
            "16.wav",
            write_wav_at(&tone(16_000, 1_000), 16_000),
            16_000,
            16_000,
        ),
        (
            "48.wav",
            write_wav_at(&tone(48_000, 1_000), 48_000),
            48_000,
            48_000,
        ),
    ] {
        let path = desk.put(name, &file);
        for judge in ["sox", "ffmpeg"] {
            let heard = desk.path(&format!("{judge}-{name}"));
            if judge == "sox" {
                run(
                    &sox,
                    &[&path, "-D", "-b", "16", "-e", "signed-integer", &heard],
                );
            } else {
                run(
                    &ffmpeg,
                    &[
                        "-v",
                        "warning",
                        "-i",
                        &path,
                        "-c:a",
                        "pcm_s16le",
                        "-bitexact",
                        &heard,
                    ],
                );
            }
            let (samples, at) = desk.samples(&format!("{judge}-{name}"));
            assert_eq!((samples.len(), at), (count, rate), "{judge} {name}");
            assert!(samples == desk.samples(name).0, "{judge} {name}");
        }
    }
}

/// A codec of ours against ffmpeg's, both ways, as raw payloads.
fn against_ffmpeg(ffmpeg: &Path, codec: Codec, format: &str) {
    let desk = Desk::new();
    let rate = codec.sample_rate();
    let voice = tone(rate, 2_000);
    let source = desk.put("source.wav", &write_wav_at(&voice, rate));

    let mut encoder = Encoder::new(codec);
    let mut payload = Vec::new();
    for frame in voice.chunks(encoder.frame_samples()) {
        encoder.encode(frame, &mut payload);
    }
    // RFC 3551 section 4.5.2: 160 bytes in 20 ms, whatever the sample rate.
    assert_eq!(payload.len(), 16_000);
    let ours = desk.put("ours.raw", &payload);
    let heard = desk.path("heard.wav");
    // Raw G.711 is taken for 44.1 kHz, and G.722 has but one rate.
    let rate_of_input: &[&str] = match codec {
        Codec::G722 => &[],
        _ => &["-ar", "8000"],
    };
    let before = ["-v", "error", "-f", format];
    let after = ["-i", &ours, "-c:a", "pcm_s16le", "-bitexact", &heard];
    run(ffmpeg, &[&before, rate_of_input, &after].concat());
    let (samples, at) = desk.samples("heard.wav");
    assert_eq!((samples.len(), at), (voice.len(), rate));
    assert_tone(&samples[rate as usize / 2..], rate);

    let theirs = desk.path("theirs.raw");
    run(
        ffmpeg,
        &["-v", "error", "-i", &source, "-f", format, &theirs],
    );
    let mut decoder = Decoder::new(codec, rate);
    let mut samples = Vec::new();
    for payload in fs::read(&theirs).unwrap().chunks(160) {
        decoder.decode(payload, &mut samples);
    }
    assert!(samples.len() >= voice.len());
    assert_tone(&samples[rate as usize / 2..voice.len()], rate);
}

#[test]
fn ffmpeg_and_we_understand_each_other_in_g711_and_g722() {
    let Some(ffmpeg) = peers::find("ffmpeg") else {
        return;
    };
    against_ffmpeg(&ffmpeg, Codec::Pcmu, "mulaw");
    against_ffmpeg(&ffmpeg, Codec::Pcma, "alaw");
    against_ffmpeg(&ffmpeg, Codec::G722, "g722");
}
