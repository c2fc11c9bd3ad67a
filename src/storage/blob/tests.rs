use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::domain::Timestamp;

fn message_id(at_ms: i64) -> MessageId {
    MessageId::new(Timestamp::from_millis(at_ms), [7; 10])
}

/// In the folders below `dir`.
fn open(dir: &Path) -> Result<Blobs, BlobError> {
    Blobs::open(&dir.join("recordings"), &dir.join("conversions"), 1000)
}

fn blobs() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir.path().join("a")).unwrap();
    (dir, blobs)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

async fn collect(blobs: &Blobs, key: &str, range: Range<u64>) -> Vec<u8> {
    let pieces: Vec<Bytes> = blobs
        .stream(key, range)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    pieces.concat()
}

#[test]
fn a_recording_lies_in_the_folder_of_its_hour() {
    let key = Blobs::recording_key(message_id(1_795_403_093_120), AudioFormat::WavPcm);
    let (folder, name) = key.rsplit_once('/').unwrap();
    assert_eq!(folder, "recordings/2026-11-23/03");
    assert_eq!(name, format!("{}.wav", message_id(1_795_403_093_120)));
    // Any sixteen bytes are an id: also those whose time no calendar knows.
    assert!(
        Blobs::recording_key(MessageId::from_bytes([0xff; 16]), AudioFormat::WavPcmu)
            .ends_with(".wav")
    );
}

#[test]
fn greetings_never_share_a_key() {
    let subscriber = SubscriberId::from_bytes([9; 16]);
    let at = Timestamp::from_millis(5);
    let key = Blobs::greeting_key(subscriber, at, 1);
    assert_ne!(key, Blobs::greeting_key(subscriber, at, 2));
    assert_ne!(key, Blobs::greeting_key(subscriber, at.plus_millis(1), 1));
    let other = SubscriberId::from_bytes([8; 16]);
    assert_ne!(key, Blobs::greeting_key(other, at, 1));
}

#[tokio::test]
async fn what_is_put_is_got_in_whole_and_in_part() {
    let (_dir, blobs) = blobs();
    let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    blobs
        .put("recordings/x.wav", content.clone().into())
        .await
        .unwrap();

    assert_eq!(blobs.get("recordings/x.wav").await.unwrap(), content);
    assert_eq!(blobs.size("recordings/x.wav").await.unwrap(), 100_000);
    assert_eq!(
        collect(&blobs, "recordings/x.wav", 0..100_000).await,
        content
    );
    assert_eq!(
        collect(&blobs, "recordings/x.wav", 44..60_000).await,
        content[44..60_000]
    );
    assert_eq!(
        collect(&blobs, "recordings/x.wav", 99_999..100_000).await,
        content[99_999..]
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_may_be_deleted() {
    let (_dir, blobs) = blobs();
    let not_found = |error| matches!(error, BlobError::NotFound { key } if key == "a/b.wav");
    assert!(not_found(blobs.get("a/b.wav").await.unwrap_err()));
    assert!(not_found(blobs.size("a/b.wav").await.unwrap_err()));
    assert!(not_found(
        blobs.stream("a/b.wav", 0..1).await.err().unwrap()
    ));
    blobs.delete("a/b.wav").await.unwrap();
}

#[tokio::test]
async fn deleting_removes_the_file_and_the_folders_it_leaves_empty() {
    let (_dir, blobs) = blobs();
    for key in ["recordings/d/1/x.wav", "recordings/d/2/y.wav"] {
        blobs.put(key, Bytes::from_static(b"audio")).await.unwrap();
    }
    blobs.delete("recordings/d/1/x.wav").await.unwrap();
    blobs.delete("recordings/d/1/x.wav").await.unwrap();
    assert!(!blobs.folders.root.join("recordings/d/1").exists());
    assert_eq!(blobs.get("recordings/d/2/y.wav").await.unwrap(), "audio");
    blobs.delete("recordings/d/2/y.wav").await.unwrap();
    assert!(blobs.folders.root.exists());
    assert!(!blobs.folders.root.join("recordings").exists());
}

/// Stores a recording as a deposit does.
fn deposit(blobs: &Blobs, id: MessageId, audio: &[u8]) -> Result<(), BlobError> {
    let mut staged = blobs.stage(id)?;
    staged.write_all(audio).unwrap();
    blobs.keep(staged, id, AudioFormat::OggOpus)
}

#[tokio::test]
async fn a_recording_that_is_kept_is_there_and_repeating_it_changes_nothing() {
    let (_dir, blobs) = blobs();
    let key = Blobs::recording_key(message_id(0), AudioFormat::OggOpus);
    for _ in 0..2 {
        deposit(&blobs, message_id(0), b"audio").unwrap();
        assert_eq!(blobs.get(&key).await.unwrap(), "audio");
    }
    assert_eq!(
        files_below(&blobs.folders.root),
        [blobs.folders.root.join(&key)]
    );
}

#[tokio::test]
async fn a_recording_replaces_what_an_earlier_attempt_left_and_no_other_file() {
    let (_dir, blobs) = blobs();
    let key = Blobs::recording_key(message_id(0), AudioFormat::OggOpus);
    blobs
        .put(&key, Bytes::from_static(b"a part"))
        .await
        .unwrap();
    let stored = blobs.folders.root.join(&key);
    // The former version gave names of one file to another.
    let other = blobs.folders.root.join("other");
    fs::write(&other, b"of another name").unwrap();
    fs::hard_link(&other, stored.with_extension("new")).unwrap();

    deposit(&blobs, message_id(0), b"all of the audio").unwrap();
    assert_eq!(blobs.get(&key).await.unwrap(), "all of the audio");
    assert_eq!(fs::read(&other).unwrap(), b"of another name");
    assert_eq!(files_below(&blobs.folders.root).len(), 2);
}

#[test]
fn a_recording_that_is_not_kept_leaves_no_piece_behind() {
    let (_dir, blobs) = blobs();
    let mut staged = blobs.stage(message_id(0)).unwrap();
    staged.write_all(b"a part").unwrap();
    assert_eq!(files_below(&blobs.folders.root).len(), 1);
    drop(staged);
    assert!(files_below(&blobs.folders.root).is_empty());
}

#[test]
fn a_recording_that_cannot_be_made_is_an_error_that_names_it() {
    let (_dir, blobs) = blobs();
    fs::write(blobs.folders.root.join("recordings"), b"no folder").unwrap();
    let error = blobs.stage(message_id(0)).unwrap_err();
    assert!(
        error.to_string().contains("recordings/1970-01-01/00"),
        "{error}"
    );
    assert!(!error.is_disk_full());
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let (_dir, blobs) = blobs();
    blobs
        .put("greetings/g.wav", Bytes::from_static(b"hello"))
        .await
        .unwrap();
    deposit(&blobs, message_id(0), b"audio").unwrap();
    let key = Blobs::recording_key(message_id(0), AudioFormat::OggOpus);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&blobs.folders.root), 0o700);
    assert_eq!(mode(&blobs.folders.root.join("recordings")), 0o700);
    assert_eq!(mode(&blobs.folders.root.join("greetings/g.wav")), 0o600);
    assert_eq!(mode(&blobs.folders.root.join(key)), 0o600);
}

#[tokio::test]
async fn no_key_leads_out_of_the_folder() {
    let (dir, blobs) = blobs();
    fs::write(dir.path().join("secret"), b"secret").unwrap();
    for key in ["../secret", "recordings/../../secret", "", "/"] {
        assert!(blobs.get(key).await.is_err(), "{key}");
    }
}

#[tokio::test]
async fn writing_and_deleting_side_by_side_disturb_nobody() {
    let (_dir, blobs) = blobs();
    let tasks = (0..64).map(|n| {
        let blobs = blobs.clone();
        async move {
            let key = format!("recordings/hour/{n}.wav");
            blobs.put(&key, Bytes::from_static(b"audio")).await?;
            blobs.delete(&key).await
        }
    });
    for result in futures_util::future::join_all(tasks).await {
        result.unwrap();
    }
    assert!(files_below(&blobs.folders.root).is_empty());
}

#[tokio::test]
async fn ping_leaves_nothing_and_fails_where_the_folder_is_gone() {
    let (_dir, blobs) = blobs();
    let pings = (0..8).map(|_| blobs.ping());
    futures_util::future::try_join_all(pings).await.unwrap();
    assert!(files_below(&blobs.folders.root).is_empty());
    fs::remove_dir_all(&blobs.folders.root).unwrap();
    fs::write(&blobs.folders.root, b"a file in its place").unwrap();
    assert!(blobs.ping().await.is_err());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = open(&dir.path().join("file")).unwrap_err();
    assert!(error.to_string().contains("file/recordings"), "{error}");
}

#[test]
fn a_full_disk_is_recognised_through_the_layers() {
    let full = |kind: io::ErrorKind| BlobError::Store {
        attempted: "write",
        key: "k".into(),
        source: object_store::Error::Generic {
            store: "x",
            source: Box::new(io::Error::from(kind)),
        },
    };
    assert!(full(io::ErrorKind::StorageFull).is_disk_full());
    assert!(full(io::ErrorKind::QuotaExceeded).is_disk_full());
    assert!(!full(io::ErrorKind::PermissionDenied).is_disk_full());
    let (attempted, path) = ("write", PathBuf::new());
    let source = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
    assert!(
        BlobError::File {
            attempted,
            path,
            source
        }
        .is_disk_full()
    );
}
