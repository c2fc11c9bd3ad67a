//! The greeting: set, heard, refused, reset.

use aftertone::domain::Timestamp;
use aftertone::media::audio::{Tone, convert, read_wav, tone_level, write_wav};
use aftertone::storage::Storage;

use crate::support::Api;

/// A WAV file of 16 bits with a 440 Hz tone.
fn wav(rate: u32, channels: u16, seconds: f64) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    for i in 0..(f64::from(rate) * seconds) as u32 {
        let phase = f64::from(i) * 440.0 * std::f64::consts::TAU / f64::from(rate);
        for _ in 0..channels {
            writer
                .write_sample((phase.sin() * 10_000.0) as i16)
                .unwrap();
        }
    }
    writer.finalize().unwrap();
    file.into_inner()
}

#[tokio::test]
async fn a_greeting_of_a_music_programme_is_kept_in_mono_at_its_own_rate() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let default = kari.get("/api/v1/greeting").await;
    assert_eq!(default.header("greeting"), Some("default"));
    assert_eq!(default.body, api.default_greeting);

    let upload = kari
        .request("PUT", "/api/v1/greeting")
        .body("audio/wav", wav(44_100, 2, 1.5));
    let set = upload.send().await.ok(200);
    assert_eq!(set["duration_ms"], 1500);
    let own = kari.get("/api/v1/greeting").await;
    assert_eq!(own.header("greeting"), Some("own"));
    assert_eq!(own.header("content-type"), Some("audio/wav"));
    assert_ne!(own.header("etag"), default.header("etag"));
    let reader = hound::WavReader::new(own.body.as_slice()).unwrap();
    assert_eq!(
        (
            reader.spec().sample_rate,
            reader.spec().channels,
            reader.spec().bits_per_sample
        ),
        (44_100, 1, 16)
    );
    let samples = read_wav(&own.body).unwrap();
    assert!(tone_level(&samples, 440.0) > 10.0 * tone_level(&samples, 1000.0));
    let part = kari
        .request("GET", "/api/v1/greeting")
        .header("Range", "bytes=0-3")
        .send()
        .await;
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, b"RIFF".as_slice())
    );
    let head = kari.request("HEAD", "/api/v1/greeting").send().await;
    assert_eq!(
        head.header("content-length"),
        Some(own.body.len().to_string().as_str())
    );

    for _ in 0..2 {
        assert_eq!(
            kari.request("DELETE", "/api/v1/greeting")
                .send()
                .await
                .status,
            204
        );
        assert_eq!(
            kari.get("/api/v1/greeting").await.header("greeting"),
            Some("default")
        );
    }
    assert_eq!(
        api.storage
            .blobs_to_delete(Timestamp::MAX, 10)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_greeting_may_come_as_opus_and_is_given_as_wav() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let mut ogg = Vec::new();
    convert::wav_to_ogg(wav(48_000, 1, 1.5).as_slice(), &mut ogg).unwrap();
    let upload = kari
        .request("PUT", "/api/v1/greeting")
        .body("audio/ogg; codecs=opus", ogg);
    assert_eq!(upload.send().await.ok(200)["duration_ms"], 1500);
    let own = kari.get("/api/v1/greeting").await;
    let reader = hound::WavReader::new(own.body.as_slice()).unwrap();
    assert_eq!(
        (reader.spec().sample_rate, reader.duration()),
        (48_000, 72_000)
    );
    let samples = read_wav(&own.body).unwrap();
    assert!(tone_level(&samples, 440.0) > 10.0 * tone_level(&samples, 1000.0));
    // Ogg is not made of a greeting.
    let wants_ogg = kari.request("GET", "/api/v1/greeting");
    let refused = wants_ogg.header("Accept", "audio/ogg").send().await;
    refused.is_problem(406);

    let broken = kari
        .request("PUT", "/api/v1/greeting")
        .body("audio/ogg", &b"OggS"[..]);
    broken.send().await.is_problem(422);
    assert_eq!(kari.get("/api/v1/greeting").await.body, own.body);
}

#[tokio::test]
async fn a_new_greeting_replaces_the_old_and_others_keep_theirs() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let ola = api.subscriber("+4790000002").await;
    let uploads = [
        (1.0, "audio/x-wav"),
        (2.0, "application/x-www-form-urlencoded"),
    ];
    for (seconds, kind) in uploads {
        let upload = kari
            .request("PUT", "/api/v1/greeting")
            .body(kind, wav(8000, 1, seconds));
        upload.send().await.ok(200);
    }
    assert_eq!(kari.get("/api/v1/greeting").await.body.len(), 44 + 32_000);
    assert_eq!(
        ola.get("/api/v1/greeting").await.header("greeting"),
        Some("default")
    );
}

#[tokio::test]
async fn what_is_no_greeting_is_refused_with_the_reason() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let put = async |kind: &str, body: Vec<u8>| {
        kari.request("PUT", "/api/v1/greeting")
            .body(kind, body)
            .send()
            .await
    };
    put("audio/mpeg", wav(8000, 1, 1.0)).await.is_problem(415);
    put("application/json", b"{}".to_vec())
        .await
        .is_problem(415);
    put("multipart/form-data; boundary=x", wav(8000, 1, 1.0))
        .await
        .is_problem(415);
    put("audio/wav", b"hello".to_vec()).await.is_problem(422);
    put("application/x-www-form-urlencoded", b"file=hello".to_vec())
        .await
        .is_problem(422);
    put("audio/wav", Vec::new()).await.is_problem(422);
    put("audio/wav", write_wav(&[])).await.is_problem(422);
    let tone = Tone::new(440.0, 8000.0).take_ms(61_000);
    let long = put("audio/wav", write_wav(&tone)).await;
    long.is_problem(422);
    assert!(long.text().contains("61 seconds"), "{}", long.text());
    put("audio/wav", write_wav(&tone[..60 * 8000]))
        .await
        .ok(200);
    assert_eq!(
        kari.request("DELETE", "/api/v1/greeting")
            .send()
            .await
            .status,
        204
    );

    let huge = kari
        .request("PUT", "/api/v1/greeting")
        .header("Content-Type", "audio/wav");
    huge.header("Content-Length", "20000000")
        .send()
        .await
        .is_problem(413);
    assert_eq!(
        kari.get("/api/v1/greeting").await.header("greeting"),
        Some("default")
    );
}
