//! The recording: whole, in parts, conditionally, in large.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, Holder, Response, SOON, curl};

/// Bytes that differ at every place one might confuse.
fn recording(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i % 251) as u8 ^ (i / 251) as u8)
        .collect()
}

async fn ask(kari: &Holder<'_>, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = kari.request("GET", path);
    let request = headers
        .iter()
        .fold(request, |r, (name, value)| r.header(name, value));
    request.send().await
}

#[tokio::test]
async fn the_whole_recording_comes_with_all_a_player_needs() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let bytes = recording(32_044);
    let path = format!("/api/v1/messages/{}/audio", kari.receives(&bytes).await);

    let whole = kari.get(&path).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == bytes);
    let head = kari.request("HEAD", &path).send().await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for answer in [&whole, &head] {
        assert_eq!(answer.header("content-type"), Some("audio/wav"));
        assert_eq!(answer.header("content-length"), Some("32044"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(
            answer.header("last-modified"),
            Some("Mon, 23 Nov 2026 03:04:56 GMT")
        );
        let disposition = "inline; filename=\"voicemail-2026-11-23-0404-4721000000.wav\"";
        assert_eq!(answer.header("content-disposition"), Some(disposition));
        assert!(
            answer
                .header("cache-control")
                .unwrap()
                .starts_with("private")
        );
        let etag = answer.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.len() == 66, "{etag}");
    }
    // A HEAD knows no ranges (RFC 9110 section 14.2).
    let head = kari
        .request("HEAD", &path)
        .header("Range", "bytes=0-9")
        .send()
        .await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("32044"))
    );
}

#[tokio::test]
async fn a_part_is_exactly_the_bytes_asked_for() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let bytes = recording(20_001);
    let path = format!("/api/v1/messages/{}/audio", kari.receives(&bytes).await);
    let last = bytes.len() - 1;

    let mut parts = vec![
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=0-1".to_owned(), 0, 1),
        ("bytes=0-".to_owned(), 0, last),
        ("bytes=-1".to_owned(), last, last),
        ("bytes=-8000".to_owned(), last - 7999, last),
        ("bytes=-99999".to_owned(), 0, last),
        (format!("bytes={last}-"), last, last),
        (format!("bytes=5-{}", u64::MAX), 5, last),
    ];
    let mut random = 12345_usize;
    for _ in 0..40 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let first = (random >> 33) % bytes.len();
        let end = first + (random >> 17) % (bytes.len() - first);
        parts.push((format!("bytes={first}-{end}"), first, end));
    }
    for (range, first, end) in parts {
        let part = ask(&kari, &path, &[("Range", &range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == bytes[first..=end], "{range}");
        let content_range = format!("bytes {first}-{end}/{}", bytes.len());
        assert_eq!(
            part.header("content-range"),
            Some(content_range.as_str()),
            "{range}"
        );
        assert_eq!(
            part.header("content-length"),
            Some((end - first + 1).to_string().as_str())
        );
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_is_416_and_nonsense_is_ignored() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let path = format!(
        "/api/v1/messages/{}/audio",
        kari.receives(&recording(1000)).await
    );
    for range in ["bytes=1000-", "bytes=1000-2000", "bytes=-0"] {
        let answer = ask(&kari, &path, &[("Range", range)]).await;
        answer.is_problem(416);
        assert_eq!(
            answer.header("content-range"),
            Some("bytes */1000"),
            "{range}"
        );
    }
    for range in [
        "bytes=9-1",
        "bytes=x",
        "seconds=1-2",
        "bytes=0-1,4-5",
        "bytes=-",
    ] {
        let answer = ask(&kari, &path, &[("Range", range)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, 1000), "{range}");
        assert_eq!(answer.header("content-range"), None);
    }
}

#[tokio::test]
async fn a_download_goes_on_only_in_the_same_recording() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let path = format!(
        "/api/v1/messages/{}/audio",
        kari.receives(&recording(1000)).await
    );
    let whole = kari.get(&path).await;
    let etag = whole.header("etag").unwrap();
    let modified = whole.header("last-modified").unwrap();
    let weak = format!("W/{etag}");
    for (validator, status) in [
        (etag, 206),
        (modified, 206),
        (weak.as_str(), 200),
        ("\"other\"", 200),
        ("Mon, 23 Nov 2026 03:04:57 GMT", 200),
    ] {
        let headers = [("Range", "bytes=500-"), ("If-Range", validator)];
        assert_eq!(
            ask(&kari, &path, &headers).await.status,
            status,
            "{validator}"
        );
    }
    for (name, value, status) in [
        ("If-None-Match", etag, 304),
        ("If-None-Match", weak.as_str(), 304),
        ("If-None-Match", "\"other\"", 200),
        ("If-Modified-Since", modified, 304),
        ("If-Modified-Since", "Mon, 23 Nov 2026 03:04:55 GMT", 200),
        ("If-Match", "\"other\"", 412),
    ] {
        let answer = ask(&kari, &path, &[(name, value)]).await;
        assert_eq!(answer.status, status, "{name}: {value}");
        if status == 304 {
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("etag"), Some(etag));
        }
    }
}

#[tokio::test]
async fn only_wav_is_offered_and_other_wishes_are_refused() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let path = format!(
        "/api/v1/messages/{}/audio",
        kari.receives(&recording(100)).await
    );
    ask(&kari, &format!("{path}?format=mp3"), &[])
        .await
        .is_problem(406);
    ask(&kari, &path, &[("Accept", "audio/mpeg")])
        .await
        .is_problem(406);
    assert_eq!(
        ask(
            &kari,
            &format!("{path}?format=wav"),
            &[("Accept", "text/html")]
        )
        .await
        .status,
        200
    );
    // What a browser's audio element sends.
    let browser = "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5";
    assert_eq!(ask(&kari, &path, &[("Accept", browser)]).await.status, 200);
}

#[tokio::test]
async fn curl_gets_parts_and_resumes() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let bytes = recording(300_000);
    let url = format!(
        "http://{}/api/v1/messages/{}/audio",
        api.address,
        kari.receives(&bytes).await
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    let token = format!("Authorization: Bearer {}", kari.token);
    let Some(part) = curl(&["-H", &token, "-r", "1000-1999", &url], &file).await else {
        return;
    };
    assert!(part == bytes[1000..2000]);
    std::fs::write(&file, &bytes[..123_456]).unwrap();
    let resumed = curl(&["-H", &token, "-C", "-", &url], &file).await.unwrap();
    assert!(resumed == bytes);
}

#[tokio::test]
async fn a_client_that_goes_away_in_mid_download_harms_nobody() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let bytes = recording(20_000_000);
    let path = format!("/api/v1/messages/{}/audio", kari.receives(&bytes).await);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            kari.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut beginning = [0; 4096];
        stream.read_exact(&mut beginning).await.unwrap();
        drop(stream);
    }
    assert!(kari.get(&path).await.body == bytes);
    api.stop.cancel();
    api.tasks.close();
    // The drain ends with the last connection: those that went away do not hold it up.
    tokio::time::timeout(SOON.min(Duration::from_secs(8)), api.tasks.wait())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_recording_that_is_missing_is_our_fault_and_says_no_more() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let id = kari.receives(&recording(100)).await;
    let key =
        aftertone::storage::blob::Blobs::recording_key(id, aftertone::domain::AudioFormat::WavPcm);
    api.blobs.delete(&key).await.unwrap();
    let answer = kari.get(&format!("/api/v1/messages/{id}/audio")).await;
    answer.is_problem(500);
    assert!(!answer.text().contains("recordings"), "{}", answer.text());
}
