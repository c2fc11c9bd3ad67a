use super::*;

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

fn end(samples: u64) -> SpoolEnd {
    SpoolEnd {
        ended_by: RecordingEnd::HangUp,
        samples,
        missed: None,
    }
}

#[test]
fn a_finished_recording_becomes_a_wav_of_exactly_its_samples() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(dir.path(), &facts()).unwrap();
    let samples: Vec<i16> = (0..1000).collect();
    spool.append(&samples).unwrap();
    spool.append(&samples).unwrap();
    let finished = spool.finish(end(1500)).unwrap();
    let wav = finished.write_wav().unwrap();
    let bytes = fs::read(&wav.path).unwrap();
    assert_eq!(wav.size_bytes, bytes.len() as u64);
    assert_eq!(wav.sha256, *Sha256::digest(&bytes));
    let reader = hound::WavReader::new(&bytes[..]).unwrap();
    let hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample,
        sample_format,
    } = reader.spec();
    assert_eq!((channels, sample_rate, bits_per_sample), (1, 8000, 16));
    assert_eq!(sample_format, hound::SampleFormat::Int);
    let read: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
    assert_eq!(read.len(), 1500);
    assert_eq!(read[..1000], samples[..]);
    assert_eq!(read[1000..], samples[..500]);
    finished.remove().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_no_wav_can_hold_is_refused() {
    assert!(wav_head(u64::from(u32::MAX) - 36).is_some());
    assert_eq!(wav_head(u64::from(u32::MAX)), None);
    assert_eq!(wav_head(1 << 40), None);
}

#[test]
fn a_recording_left_behind_by_a_crash_keeps_its_facts_and_whole_samples() {
    let dir = tempfile::tempdir().unwrap();
    let facts = facts();
    let mut spool = Spool::create(dir.path(), &facts).unwrap();
    spool.append(&[1; 100]).unwrap();
    spool.file.write_all(&[9]).unwrap(); // half a sample
    drop(spool);
    let spool_dir = SpoolDir::open(dir.path()).unwrap();
    let [path] = &spool_dir.list().unwrap()[..] else {
        panic!("one spool file")
    };
    let left = FinishedSpool::open(path).unwrap();
    assert!(!left.was_finished);
    assert_eq!(left.end.samples, 100);
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
fn a_wav_that_could_not_be_written_leaves_no_piece_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(dir.path(), &facts()).unwrap();
    spool.append(&[3; 50]).unwrap();
    let mut finished = spool.finish(end(50)).unwrap();
    finished.end.samples = 60; // more than there are: the file ends too soon
    finished.write_wav().unwrap_err();
    assert!(!finished.path.with_extension("wav").exists());
}

#[test]
fn a_file_cut_short_by_a_full_disk_gives_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(dir.path(), &facts()).unwrap();
    spool.append(&[3; 50]).unwrap();
    let finished = spool.finish(end(80)).unwrap();
    assert_eq!(finished.end.samples, 50);
    finished.write_wav().unwrap();
}
