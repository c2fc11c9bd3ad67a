//! Torture messages with what a voicemail server must do with each.

#![allow(dead_code, reason = "every test uses its part")]

use std::path::Path;

/// One message and what is expected.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// The alternatives: `accept`, `drop`, or a status code.
    pub(crate) expect: Vec<String>,
}

impl Case {
    pub(crate) fn allows(&self, outcome: &str) -> bool {
        self.expect.iter().any(|expect| expect == outcome)
    }
}

/// Reads `EXPECTED.tsv` and the messages that it names.
pub(crate) fn load(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let table = std::fs::read_to_string(folder.join("EXPECTED.tsv")).expect("the table is there");
    let lines = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let cases = lines.map(|line| {
        let mut columns = line.split('\t');
        let name = columns.next().expect("a name").to_owned();
        let expect = columns.nth(1).expect("an expectation");
        Case {
            bytes: std::fs::read(folder.join(format!("{name}.dat"))).expect("the message is there"),
            expect: expect.split('|').map(str::to_owned).collect(),
            name,
        }
    });
    cases.collect()
}
