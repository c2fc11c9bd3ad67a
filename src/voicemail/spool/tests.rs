use sha2::{Digest, Sha256};

use super::*;
use crate::domain::{AudioFormat, Private, StoredAudio};
use crate::media::audio::Codec;
use crate::media::recording;

fn facts() -> SpoolFacts {
    let at = Timestamp::from_millis(1_700_000_000_000);
    SpoolFacts {
        id: MessageId::new(at, [7; 10]),
        subscriber: SubscriberId::new(at, [8; 10]),
        to: Msisdn::parse("+4712345678").unwrap(),
        caller: Caller {
            number: Some(Msisdn::parse("+4787654321").unwrap()),
            name: Some(Private("Ødegård \"x\"".repeat(100))),
        },
        reason: DivertReason::Busy,
        received_at: at,
    }
}

fn spool_in(dir: &Path) -> SpoolDir {
    SpoolDir::open(dir).unwrap()
}

/// The file that is kept, and what is told of it.
fn original(finished: &FinishedSpool) -> (Vec<u8>, StoredAudio) {
    let mut bytes = Vec::new();
    let audio = finished.write_original(&mut bytes).unwrap();
    (bytes, audio)
}

/// Ticks of a frame of 20 ms.
const FRAME: u64 = 960;

fn end(ticks: u64) -> SpoolEnd {
    SpoolEnd {
        ended_by: RecordingEnd::HangUp,
        ticks,
        missed: None,
        failed_stage: None,
        setup: SetupTimes::default(),
    }
}

/// Frames of PCMA, each of one code, from frame number `from` on.
fn log(from: u64, codes: &[u8]) -> Vec<u8> {
    let mut log = Vec::new();
    for (nth, code) in codes.iter().enumerate() {
        let record = recording::Record {
            at: (from + nth as u64) * FRAME,
            lost: 0,
            what: recording::What::Audio(Codec::Pcma, &[*code; 160]),
        };
        record.write(&mut log);
    }
    log
}

#[test]
fn a_finished_recording_becomes_a_file_of_what_was_received_and_of_its_exact_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool_in(dir.path()).create(&facts()).unwrap();
    spool.append(&log(0, &[1, 2])).unwrap();
    spool.append(&log(3, &[3])).unwrap();
    let finished = spool.finish(end(3 * FRAME + 60)).unwrap();
    let (bytes, audio) = original(&finished);
    assert_eq!(audio.stored_bytes, bytes.len() as u64);
    assert_eq!(audio.sha256, *Sha256::digest(&bytes));
    assert_eq!(audio.format, AudioFormat::WavPcma);
    assert_eq!(audio.codec.as_deref(), Some("PCMA"));
    assert_eq!((audio.sample_rate, audio.samples), (8_000, 3 * 160 + 10));
    let codes = [[1; 160], [2; 160], [0xD5; 160]].concat();
    assert_eq!(bytes[58..][..480], codes);
    assert_eq!(bytes[58..][480..], [3; 10]);
}

#[test]
fn a_file_that_is_released_is_empty_at_once_and_holds_nothing_but_the_next_recording() {
    let dir = tempfile::tempdir().unwrap();
    let spool_dir = spool_in(dir.path());
    let mut spool = spool_dir.create(&facts()).unwrap();
    spool.append(&log(0, &[1; 100])).unwrap();
    let first = spool.finish(end(100 * FRAME)).unwrap();
    spool_dir.release(&first).unwrap();
    assert_eq!(fs::metadata(&first.path).unwrap().len(), 0);

    let mut spool = spool_dir.create(&facts()).unwrap();
    assert_eq!(spool.path(), first.path);
    spool.append(&log(0, &[2; 3])).unwrap();
    drop(spool);
    let left = FinishedSpool::open(&first.path).unwrap();
    assert!(!left.was_finished);
    let (bytes, audio) = original(&left);
    assert_eq!(audio.samples, 3 * 160);
    assert_eq!(bytes[58..], [2; 3 * 160]);
}

#[test]
fn two_recordings_never_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let left = spool_in(dir.path()).create(&facts()).unwrap();
    let spool_dir = spool_in(dir.path());
    let spools: Vec<_> = (0..3)
        .map(|_| spool_dir.create(&facts()).unwrap())
        .collect();
    let released = spool_dir.create(&facts()).unwrap().finish(end(0)).unwrap();
    spool_dir.release(&released).unwrap();
    let again: Vec<_> = (0..2)
        .map(|_| spool_dir.create(&facts()).unwrap())
        .collect();
    let all = spools.iter().chain(&again).chain([&left]);
    let paths: std::collections::BTreeSet<_> = all.map(Spool::path).collect();
    assert_eq!(paths.len(), 6);
    assert_eq!(spool_dir.list().unwrap().len(), 6);
}

#[test]
fn an_empty_file_that_somebody_took_away_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let spool_dir = spool_in(dir.path());
    let finished = spool_dir.create(&facts()).unwrap().finish(end(0)).unwrap();
    spool_dir.release(&finished).unwrap();
    fs::remove_file(&finished.path).unwrap();
    let spool = spool_dir.create(&facts()).unwrap();
    assert!(FinishedSpool::open(spool.path()).is_ok());
}

#[test]
fn what_holds_no_recording_is_gone_with_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["00000007.spool", "x.wav", "x.original"] {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    fs::write(dir.path().join("x.spool"), b"a recording").unwrap();
    let spool_dir = spool_in(dir.path());
    assert_eq!(spool_dir.list().unwrap(), [dir.path().join("x.spool")]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_recording_of_the_former_version_becomes_a_wav_of_exactly_its_samples() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool_in(dir.path()).create(&facts()).unwrap();
    let head = String::from_utf8(spool.head.to_block()).unwrap();
    let finished = r#""end":{"ended_by":"hang-up","samples":1500,"missed":null}"#;
    let samples: Vec<u8> = (0..2000_i16).flat_map(i16::to_le_bytes).collect();
    for (end, kept) in [(r#""end":null"#, 2000), (finished, 1500)] {
        let head = head.replace(r#""aftertone_spool":2"#, r#""aftertone_spool":1"#);
        let mut file = head.trim_end().replace(r#""end":null"#, end).into_bytes();
        file.resize(HEAD_BYTES, b' ');
        file.extend(&samples);
        file.push(9); // half a sample
        fs::write(&spool.path, file).unwrap();
        let left = FinishedSpool::open(&spool.path).unwrap();
        assert_eq!(left.was_finished, end == finished);
        let (wav, audio) = original(&left);
        assert_eq!((audio.format, audio.samples), (AudioFormat::WavPcm, kept));
        let mut reader = hound::WavReader::new(&wav[..]).unwrap();
        assert_eq!(reader.spec().sample_rate, 8_000);
        let read: Vec<i16> = reader.samples().map(Result::unwrap).collect();
        assert_eq!(read, (0..kept as i16).collect::<Vec<_>>());
    }
}

#[test]
fn a_recording_left_behind_by_a_crash_keeps_its_facts_and_whole_packets() {
    let dir = tempfile::tempdir().unwrap();
    let facts = facts();
    let mut spool = spool_in(dir.path()).create(&facts).unwrap();
    spool.append(&log(0, &[1; 10])).unwrap();
    let torn = log(10, &[1]);
    spool.append(&torn[..torn.len() - 1]).unwrap();
    drop(spool);
    let spool_dir = SpoolDir::open(dir.path()).unwrap();
    let [path] = &spool_dir.list().unwrap()[..] else {
        panic!("one spool file")
    };
    let left = FinishedSpool::open(path).unwrap();
    assert!(!left.was_finished);
    assert_eq!(left.end.ticks, 10 * FRAME);
    assert_eq!(left.end.ended_by, RecordingEnd::Interrupted);
    assert_eq!(left.facts.to, facts.to);
    assert_eq!(left.facts.caller.number, facts.caller.number);
}

#[test]
fn a_file_that_is_no_recording_is_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"{}", &[b' '; HEAD_BYTES + 10]] {
        let path = dir.path().join("x.spool");
        fs::write(&path, content).unwrap();
        assert!(matches!(
            FinishedSpool::open(&path),
            Err(SpoolError::NotASpoolFile { .. })
        ));
    }
}

#[test]
fn a_directory_belongs_to_one_service_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/spool");
    let first = SpoolDir::open(&path).unwrap();
    let error = SpoolDir::open(&path).unwrap_err();
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
    drop(first);
    SpoolDir::open(&path).unwrap();
}

#[test]
fn no_recording_begins_on_a_disk_that_is_as_good_as_full() {
    let dir = Path::new("/data");
    assert!(judge_room(dir, LEAST_FREE_BYTES).is_ok());
    let error = judge_room(dir, LEAST_FREE_BYTES - 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data_dir: only 49 MB are free in /data; make room"
    );
}

#[test]
fn a_file_cut_short_by_a_full_disk_gives_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool_in(dir.path()).create(&facts()).unwrap();
    spool.append(&log(0, &[3; 50])).unwrap();
    let finished = spool.finish(end(80 * FRAME)).unwrap();
    assert_eq!(original(&finished).1.samples, 50 * 160);
}
