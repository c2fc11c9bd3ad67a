//! What a subscriber hears in a real browser: it plays each recording as it lies in the store.

use std::f64::consts::TAU;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use aftertone::clock::ManualClock;
use aftertone::domain::{AudioFormat, Caller, Losses, StoredAudio};
use aftertone::http;
use aftertone::media::audio::{Law, convert, wav};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{Api, Holder, NOW};
use crate::browser::Browser;
use crate::peers;

/// Where `npm ci --prefix tests/peers/browser` puts what drives the browser.
const DRIVER: &str = "node_modules/puppeteer-core/package.json";
const SECRET: &str = "5ec2e7";
const MS: u32 = 1600;

fn tone(hz: f64, rate: u32) -> Vec<i16> {
    let step = TAU * hz / f64::from(rate);
    let samples = 0..rate * MS / 1000;
    samples
        .map(|n| (9830.0 * (step * f64::from(n)).sin()) as i16)
        .collect()
}

/// A tone as it lies in the store after a call in such a codec.
fn recording(codec: &str, hz: f64) -> (AudioFormat, u32, Vec<u8>) {
    match codec {
        "opus" => {
            let mut file = Cursor::new(Vec::new());
            let linear = wav::write_wav_at(&tone(hz, 48_000), 48_000);
            convert::wav_to_ogg(Cursor::new(linear), &mut file).unwrap();
            (AudioFormat::OggOpus, 48_000, file.into_inner())
        }
        "PCMA" => {
            let samples = tone(hz, 8_000);
            let mut codes = vec![0; samples.len()];
            Law::A.encode(&samples, &mut codes);
            let head = wav::g711_head(Law::A, codes.len() as u64).unwrap();
            (AudioFormat::WavPcma, 8_000, [&head[..], &codes].concat())
        }
        _ => {
            let file = wav::write_wav_at(&tone(hz, 16_000), 16_000);
            (AudioFormat::WavPcm, 16_000, file)
        }
    }
}

async fn receives(kari: &Holder<'_>, codec: &str, hz: f64) {
    let (format, sample_rate, file) = recording(codec, hz);
    let audio = StoredAudio {
        format,
        codec: Some(codec.into()),
        sample_rate,
        samples: u64::from(sample_rate * MS / 1000),
        stored_bytes: file.len() as u64,
        sha256: Sha256::digest(&file).into(),
        losses: Losses::default(),
    };
    kari.receives_audio(Caller::default(), audio, &file).await;
}

/// What a browser makes of the messages, the newest first; `None` where one of `programs` is not installed.
async fn play(api: &Api, kari: &Holder<'_>, programs: &[&str]) -> Option<Vec<Value>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser");
    let node = peers::find("node")?;
    let found: Option<Vec<_>> = programs.iter().map(|it| peers::find(it)).collect();
    peers::find_file(&folder.join(DRIVER))?;
    Browser::signed_in(api, &kari.subscriber, SECRET).await;
    let plan = json!({
        "browser": found?.first(),
        "page": format!("http://{}/", api.address),
        // Its name without TLS.
        "cookie": ["aftertone", SECRET],
    });
    let mut command = Command::new(node);
    command.arg(folder.join("play.mjs")).arg(plan.to_string());
    let output = peers::run(command, 3 * crate::api::SOON).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nothing plays: {complaint}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Every recording is played, in parts, and then it is heard. The first of `programs` is the browser.
async fn plays_every_recording(programs: &[&str]) {
    let clock = ManualClock::starting_at(NOW);
    let without_tls = "http://voicemail.example.com/";
    let api = Api::at(
        without_tls,
        http::Config::default(),
        clock,
        |state, _, _| state,
    )
    .await;
    let kari = api.subscriber("+4799990001").await;
    let messages = [("opus", 440.0), ("PCMA", 700.0), ("G722", 1000.0)];
    for (codec, hz) in messages {
        receives(&kari, codec, hz).await;
    }
    let Some(played) = play(&api, &kari, programs).await else {
        return;
    };
    assert_eq!(played.len(), messages.len());
    for ((codec, hz), told) in messages.into_iter().rev().zip(&played) {
        let number = |name: &str| told[name].as_f64().unwrap();
        assert!((number("hz") - hz).abs() < 20.0, "{codec}: {told}");
        let seconds = f64::from(MS) / 1000.0;
        assert!((number("duration") - seconds).abs() < 0.01, "{told}");
        assert!((number("currentTime") - seconds).abs() < 0.01, "{told}");
        let format = if codec == "opus" { "ogg" } else { "wav" };
        let url = told["currentSrc"].as_str().unwrap();
        assert!(url.ends_with(&format!("?format={format}")), "{told}");
        let answers = told["answers"].as_array().unwrap();
        assert!(!answers.is_empty(), "{told}");
        for answer in answers {
            assert_eq!(answer["status"], 206, "{told}");
        }
    }
    let unread = kari.get("/api/v1/messages?unread=true").await.ok(200);
    assert_eq!(unread["messages"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_plays_every_recording() {
    plays_every_recording(&["chromium"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_plays_every_recording() {
    plays_every_recording(&["firefox-esr", "pulseaudio"]).await;
}
