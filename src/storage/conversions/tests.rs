use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use futures_util::TryStreamExt;

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    conversions: Conversions,
    made: Arc<AtomicUsize>,
}

impl Scene {
    fn new(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conversions = Conversions::open(&dir.path().join("made"), max_bytes).unwrap();
        fs::write(dir.path().join("source"), "abc").unwrap();
        Self {
            dir,
            conversions,
            made: Arc::default(),
        }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// Three times its source.
    fn thrice(&self) -> Make {
        let made = Arc::clone(&self.made);
        Box::new(move |from, to| {
            made.fetch_add(1, Ordering::Relaxed);
            to.write_all(fs::read_to_string(from)?.repeat(3).as_bytes())
        })
    }

    async fn get(&self, name: &str) -> io::Result<Made> {
        self.conversions
            .get(name, self.source(), self.thrice())
            .await
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("made")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

async fn bytes(made: &Made, range: Range<u64>) -> Vec<u8> {
    let pieces: Vec<Bytes> = made.stream(range).try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn a_file_is_made_once_and_any_part_of_it_can_be_read() {
    let scene = Scene::new(100);
    for _ in 0..3 {
        let made = scene.get("a.wav").await.unwrap();
        assert_eq!(made.size(), 9);
        assert_eq!(bytes(&made, 0..9).await, b"abcabcabc");
        assert_eq!(bytes(&made, 2..4).await, b"ca");
        assert_eq!(bytes(&made, 4..4).await, b"");
    }
    assert_eq!(scene.made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_long_file_comes_in_pieces() {
    let scene = Scene::new(u64::MAX);
    let size = 3 * PIECE_BYTES + 17;
    let make: Make = Box::new(move |_, to| {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        to.write_all(&bytes)
    });
    let made = scene.conversions.get("a.wav", scene.source(), make).await;
    let made = made.unwrap();
    let pieces: Vec<Bytes> = made.stream(5..size).try_collect().await.unwrap();
    assert!(pieces.iter().all(|piece| piece.len() as u64 <= PIECE_BYTES));
    let whole = pieces.concat();
    assert_eq!(whole.len() as u64, size - 5);
    assert!(
        (5..size)
            .zip(&whole)
            .all(|(n, byte)| (n % 251) as u8 == *byte)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_being_made_waits_for_it() {
    let scene = Scene::new(100);
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let make: Make = Box::new(move |_, to| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        to.write_all(b"once")
    });
    let first = scene.conversions.get("a.wav", scene.source(), make);
    let others = futures_util::future::join_all((0..20).map(|_| scene.get("a.wav")));
    let release = tokio::task::spawn_blocking(move || {
        has_begun.recv().unwrap();
        go_on.send(()).unwrap();
    });
    let (first, others, released) = tokio::join!(biased; first, others, release);
    released.unwrap();
    for made in [first].into_iter().chain(others) {
        assert_eq!(bytes(&made.unwrap(), 0..4).await, b"once");
    }
    assert_eq!(scene.made.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_goes_on_when_nobody_waits_any_more() {
    let scene = Scene::new(100);
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let make: Make = Box::new(move |_, to| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        to.write_all(b"once")
    });
    tokio::select! {
        _ = scene.conversions.get("a.wav", scene.source(), make) => panic!("it was let go on"),
        begun = has_begun => begun.unwrap(),
    }
    go_on.send(()).unwrap();
    let made = scene.get("a.wav").await.unwrap();
    assert_eq!(bytes(&made, 0..4).await, b"once");
    assert_eq!(scene.made.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_conversion_that_fails_leaves_nothing_and_is_tried_again() {
    let scene = Scene::new(100);
    let broken: Make = Box::new(|_, to| {
        to.write_all(b"half")?;
        Err(io::Error::other("no more"))
    });
    let failed = scene.conversions.get("a.wav", scene.source(), broken).await;
    assert_eq!(failed.unwrap_err().to_string(), "no more");
    assert_eq!(scene.names(), [""; 0]);
    let defect: Make = Box::new(|_, _| panic!("a defect"));
    let failed = scene.conversions.get("a.wav", scene.source(), defect).await;
    assert!(failed.unwrap_err().to_string().contains("defect"));
    assert_eq!(scene.get("a.wav").await.unwrap().size(), 9);
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first_and_can_still_be_read_by_who_has_it() {
    let scene = Scene::new(27);
    let oldest = scene.get("a.wav").await.unwrap();
    scene.get("b.wav").await.unwrap();
    scene.get("c.wav").await.unwrap();
    scene.get("a.wav").await.unwrap();
    scene.get("d.wav").await.unwrap();
    assert_eq!(scene.names(), ["a.wav", "c.wav", "d.wav"]);
    scene.get("c.wav").await.unwrap();
    scene.get("e.wav").await.unwrap();
    assert_eq!(scene.names(), ["c.wav", "d.wav", "e.wav"]);
    assert_eq!(bytes(&oldest, 0..9).await, b"abcabcabc");
    assert_eq!(scene.made.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn the_newest_stays_also_where_it_alone_is_too_much() {
    let scene = Scene::new(0);
    scene.get("a.wav").await.unwrap();
    scene.get("a.wav").await.unwrap();
    assert_eq!(scene.made.load(Ordering::Relaxed), 1);
    scene.get("b.wav").await.unwrap();
    assert_eq!(scene.names(), ["b.wav"]);
}

#[tokio::test]
async fn what_was_made_of_a_recording_goes_with_it() {
    let scene = Scene::new(100);
    for name in ["a.wav", "a.ogg", "ab.wav"] {
        scene.get(name).await.unwrap();
    }
    scene.conversions.forget("a").unwrap();
    assert_eq!(scene.names(), ["ab.wav"]);
    assert_eq!(scene.conversions.shared.lock().bytes, 9);
}

#[tokio::test]
async fn what_is_done_after_its_recording_is_gone_is_not_kept() {
    let scene = Scene::new(100);
    let conversions = scene.conversions.clone();
    let make: Make = Box::new(move |from, to| {
        let mut opened = File::open(from)?;
        fs::remove_file(from)?;
        conversions.forget("a")?;
        io::copy(&mut opened, to).map(drop)
    });
    let made = scene.conversions.get("a.wav", scene.source(), make).await;
    let mut text = String::new();
    (&*made.unwrap().file).read_to_string(&mut text).ok();
    assert_eq!(scene.names(), [""; 0]);
    assert_eq!(scene.conversions.shared.lock().bytes, 0);
    let error = scene.get("a.wav").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_folder_that_is_cleared_away_is_filled_anew() {
    let scene = Scene::new(100);
    scene.get("a.wav").await.unwrap();
    fs::remove_dir_all(scene.dir.path().join("made")).unwrap();
    scene.get("a.wav").await.unwrap();
    assert_eq!(scene.names(), ["a.wav"]);
    assert_eq!(scene.conversions.shared.lock().bytes, 9);
}

#[tokio::test]
async fn a_service_that_starts_throws_away_what_an_earlier_one_left() {
    let scene = Scene::new(100);
    scene.get("a.wav").await.unwrap();
    Conversions::open(&scene.dir.path().join("made"), 100).unwrap();
    assert_eq!(scene.names(), [""; 0]);
}
