//! Any bytes as the log of a recording, as a crash may leave one: no panic, the same records in memory
//! and in pieces, and a file no longer than asked for.
#![no_main]

use std::io::Cursor;

use aftertone::media::recording;
use aftertone::media::recording::Reader;
use libfuzzer_sys::fuzz_target;

/// Ten seconds.
const KEEP: u64 = 480_000;

fuzz_target!(|log: &[u8]| {
    let mut reader = Reader::new(log);
    for record in recording::records(log) {
        assert_eq!(reader.read().expect("memory can be read"), Some(record));
    }
    assert_eq!(reader.read().expect("memory can be read"), None);
    let stored = recording::store(Cursor::new(log), KEEP, std::io::sink()).expect("it becomes a file");
    assert!(stored.ticks <= KEEP);
});
