//! The formats of a recording: which one is given, and that each is whole, in parts and by HEAD the same
//! file.

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use aftertone::domain::{AudioFormat, Caller, Gap, Losses, MessageId, StoredAudio};
use aftertone::media::audio::{
    Law, TICK_RATE, Tone, convert, read_wav, tone_level, wav, write_wav,
};
use aftertone::storage::blob::Blobs;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{Api, Holder, Response, SOON, curl};

const TONE_HZ: f64 = 440.0;
const OGG: &str = "audio/ogg; codecs=opus";

/// What is known of such a recording.
fn facts(format: AudioFormat, sample_rate: u32, samples: u64, file: &[u8]) -> StoredAudio {
    StoredAudio {
        format,
        codec: Some("opus".into()),
        sample_rate,
        samples,
        stored_bytes: file.len() as u64,
        sha256: Sha256::digest(file).into(),
        losses: Losses::new([Gap {
            at_ms: 100,
            duration_ms: 40,
        }]),
    }
}

/// A recording of every code of A-law, many times, and of an odd length.
async fn receives_g711(kari: &Holder<'_>) -> (MessageId, Vec<u8>, Vec<u8>) {
    let codes: Vec<u8> = (0..20_001_u32).map(|n| (n % 256) as u8).collect();
    let mut file = wav::g711_head(Law::A, codes.len() as u64).unwrap().to_vec();
    file.extend(&codes);
    // A chunk of a RIFF file is padded.
    file.push(0);
    let audio = facts(AudioFormat::WavPcma, 8_000, codes.len() as u64, &file);
    let id = kari.receives_audio(Caller::default(), audio, &file).await;
    let linear: Vec<i16> = codes.iter().map(|code| Law::A.sample(*code)).collect();
    (id, file, write_wav(&linear))
}

/// A tone in Opus of `ms` milliseconds.
async fn receives_opus(kari: &Holder<'_>, ms: usize) -> (MessageId, Vec<u8>) {
    let wav = write_wav(&Tone::new(TONE_HZ, 0.3).take_ms(ms));
    let mut file = Cursor::new(Vec::new());
    convert::wav_to_ogg(Cursor::new(wav), &mut file).unwrap();
    let file = file.into_inner();
    let samples = u64::from(TICK_RATE) * ms as u64 / 1000;
    let audio = facts(AudioFormat::OggOpus, TICK_RATE, samples, &file);
    let id = kari.receives_audio(Caller::default(), audio, &file).await;
    (id, file)
}

async fn ask(kari: &Holder<'_>, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = kari.request(method, path);
    let request = headers
        .iter()
        .fold(request, |r, (name, value)| r.header(name, value));
    request.send().await
}

/// That HEAD and parts, also the odd ones, are those of the whole; the whole.
async fn whole_and_parts(kari: &Holder<'_>, path: &str) -> Vec<u8> {
    let whole = kari.get(path).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    let bytes = &whole.body;
    let size = bytes.len();
    let head = ask(kari, "HEAD", path, &[]).await;
    for name in [
        "content-type",
        "content-length",
        "etag",
        "content-disposition",
        "vary",
    ] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
    assert_eq!(
        head.header("content-length"),
        Some(size.to_string().as_str())
    );
    let mut parts = vec![(0, 0), (0, 43), (43, 44), (44, 44), (45, 46), (1, size - 1)];
    let mut random = 12345_usize;
    for _ in 0..30 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let first = (random >> 33) % size;
        parts.push((first, first + (random >> 17) % (size - first)));
    }
    for (first, last) in parts {
        let range = format!("bytes={first}-{last}");
        let part = ask(kari, "GET", path, &[("Range", &range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == bytes[first..=last], "{range}");
        let content_range = format!("bytes {first}-{last}/{size}");
        assert_eq!(part.header("content-range"), Some(content_range.as_str()));
    }
    let beyond = format!("bytes={size}-");
    let answer = ask(kari, "GET", path, &[("Range", &beyond)]).await;
    answer.is_problem(416);
    let there_are = format!("bytes */{size}");
    assert_eq!(answer.header("content-range"), Some(there_are.as_str()));
    let etag = whole.header("etag").unwrap();
    let not_modified = ask(kari, "GET", path, &[("If-None-Match", etag)]).await;
    assert_eq!(not_modified.status, 304);
    whole.body
}

fn conversions(api: &Api) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(api.conversions()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn g711_is_given_linear_and_as_it_lies() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, stored, linear) = receives_g711(&kari).await;
    let path = format!("/api/v1/messages/{id}/audio");
    assert!(whole_and_parts(&kari, &path).await == linear);
    assert!(whole_and_parts(&kari, &format!("{path}?format=original")).await == stored);
    assert!(conversions(&api).is_empty(), "a table needs no conversion");

    let shown = kari.get(&format!("/api/v1/messages/{id}")).await.ok(200);
    assert_eq!(shown["size_bytes"], linear.len());
    assert_eq!(shown["formats"], json!(["audio/wav", OGG]));
    let me = kari.get("/api/v1/me").await.ok(200);
    assert_eq!(me["messages"]["size_bytes"], stored.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn opus_is_given_as_it_lies_and_as_wav() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, stored) = receives_opus(&kari, 2_000).await;
    let path = format!("/api/v1/messages/{id}/audio");
    let ogg = ask(&kari, "GET", &path, &[("Accept", "audio/ogg, */*;q=0.1")]).await;
    assert_eq!(ogg.header("content-type"), Some(OGG));
    assert!(
        ogg.header("content-disposition")
            .unwrap()
            .ends_with(".ogg\"")
    );
    assert!(ogg.body == stored);
    assert!(whole_and_parts(&kari, &format!("{path}?format=ogg")).await == stored);
    let original = kari.get(&format!("{path}?format=original")).await;
    assert!(original.body == stored);
    assert_eq!(original.header("etag"), ogg.header("etag"));

    // The size is known before anything is decoded.
    let size = 44 + 2 * 2 * TICK_RATE;
    let head = ask(&kari, "HEAD", &path, &[]).await;
    assert_eq!(
        head.header("content-length"),
        Some(size.to_string().as_str())
    );
    let beyond = format!("bytes={size}-");
    let beyond = ask(&kari, "GET", &path, &[("Range", &beyond)]).await;
    beyond.is_problem(416);
    assert!(conversions(&api).is_empty());
    let wav = whole_and_parts(&kari, &path).await;
    assert_eq!(wav.len(), size as usize);
    let heard = read_wav(&wav).unwrap();
    assert!(tone_level(&heard[4_000..12_000], TONE_HZ) > 0.1);
    assert_eq!(conversions(&api).len(), 1);

    let shown = kari.get(&format!("/api/v1/messages/{id}")).await.ok(200);
    assert_eq!(shown["codec"], "opus");
    assert_eq!(shown["size_bytes"], size);
    assert_eq!(shown["duration_ms"], 2_000);
    assert_eq!(shown["formats"], json!([OGG, "audio/wav"]));
    assert_eq!(shown["lost_ms"], 40);
    assert_eq!(shown["gaps"], json!([{"at_ms": 100, "duration_ms": 40}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wav_becomes_opus_for_who_wants_it() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let stored = write_wav(&Tone::new(TONE_HZ, 0.3).take_ms(3_000));
    let audio = facts(AudioFormat::WavPcm, 8_000, 24_000, &stored);
    let id = kari.receives_audio(Caller::default(), audio, &stored).await;
    let path = format!("/api/v1/messages/{id}/audio");
    let ogg = whole_and_parts(&kari, &format!("{path}?format=ogg")).await;
    assert!(ogg.starts_with(b"OggS") && ogg.len() < stored.len() / 2);
    let mut wav = Cursor::new(Vec::new());
    convert::ogg_to_wav(Cursor::new(ogg), &mut wav).unwrap();
    let heard = read_wav(&wav.into_inner()).unwrap();
    assert_eq!(heard.len(), 24_000);
    assert!(tone_level(&heard[4_000..20_000], TONE_HZ) > 0.1);
    assert!(kari.get(&path).await.body == stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_does_not_go_on_in_another_format() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, _) = receives_opus(&kari, 500).await;
    let path = format!("/api/v1/messages/{id}/audio");
    let ogg = kari.get(&format!("{path}?format=ogg")).await;
    let etag = ogg.header("etag").unwrap();
    let fields = [("Range", "bytes=10-"), ("If-Range", etag)];
    let wav = ask(&kari, "GET", &path, &fields).await;
    assert_eq!(wav.status, 200);
    assert_ne!(wav.header("etag"), Some(etag));
    let ogg = ask(&kari, "GET", &format!("{path}?format=ogg"), &fields).await;
    assert_eq!(ogg.status, 206);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_get_the_same_and_keep_nobody_waiting() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, _) = receives_opus(&kari, 60_000).await;
    let path = format!("/api/v1/messages/{id}/audio");
    let all = futures_util::future::join_all((0..30).map(|_| kari.get(&path)));
    let others = async {
        let mut answered = 0;
        while conversions(&api).is_empty() {
            kari.get("/api/v1/me").await.ok(200);
            answered += 1;
        }
        answered
    };
    let (all, answered) = tokio::join!(all, others);
    assert!(answered > 0);
    let whole = &all[0].body;
    assert_eq!(whole.len(), 44 + 2 * 60 * TICK_RATE as usize);
    assert!(all.iter().all(|answer| answer.body == *whole));
    assert_eq!(conversions(&api).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_of_a_recording_goes_with_it() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, _) = receives_opus(&kari, 500).await;
    let path = format!("/api/v1/messages/{id}/audio");
    kari.get(&path).await;
    assert_eq!(conversions(&api).len(), 1);
    api.blobs
        .delete(&Blobs::recording_key(id, AudioFormat::OggOpus))
        .await
        .unwrap();
    assert!(conversions(&api).is_empty());
    kari.get(&path).await.is_problem(500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_cannot_be_decoded_is_our_fault_and_leaves_nothing() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let audio = facts(AudioFormat::OggOpus, TICK_RATE, 48_000, b"no ogg");
    let id = kari
        .receives_audio(Caller::default(), audio, b"no ogg")
        .await;
    let answer = kari.get(&format!("/api/v1/messages/{id}/audio")).await;
    answer.is_problem(500);
    assert!(conversions(&api).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_a_conversion_in_parts_and_resumes() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let (id, _) = receives_opus(&kari, 2_000).await;
    let path = format!("/api/v1/messages/{id}/audio");
    let whole = kari.get(&path).await.body;
    let url = format!("http://{}{path}", api.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    let token = format!("Authorization: Bearer {}", kari.token);
    let within = Duration::from_secs(10).min(SOON);
    let fetch = async |arguments: &[&str]| {
        let all = [&["-H", token.as_str()], arguments, &[url.as_str()]].concat();
        tokio::time::timeout(within, curl(&all, &file))
            .await
            .unwrap()
    };
    let Some(part) = fetch(&["-r", "43-1000"]).await else {
        return;
    };
    assert!(part == whole[43..=1000]);
    assert!(fetch(&["-r", "-77"]).await.unwrap() == whole[whole.len() - 77..]);
    std::fs::write(&file, &whole[..12_345]).unwrap();
    assert!(fetch(&["-C", "-"]).await.unwrap() == whole);
    let ogg = fetch(&["-H", "Accept: audio/ogg"]).await.unwrap();
    assert!(ogg.starts_with(b"OggS"));
}
