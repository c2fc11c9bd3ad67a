//! A recording as libraries see it that others wrote.

use std::path::Path;
use std::process::Command;

use aftertone::media::audio::read_wav;
use serde_json::Value;

use super::{Inbox, peers};

impl Inbox {
    /// The recording of a message as it was received.
    pub async fn original(&self, message: &Value) -> Vec<u8> {
        let id = message["id"].as_str().unwrap();
        let path = format!("/messages/{id}/audio?format=original");
        let (status, body) = self.get(&path).await;
        assert_eq!(status, 200);
        body
    }
}

/// What libopus makes of an Ogg Opus file that `opusinfo` and `ffprobe` find nothing wrong with; `None`
/// where these are not installed.
pub fn decoded_opus(file: &[u8]) -> Option<Vec<i16>> {
    let opusinfo = peers::find("opusinfo")?;
    let opusdec = peers::find("opusdec")?;
    let ffprobe = peers::find("ffprobe")?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("message.opus");
    std::fs::write(&path, file).unwrap();

    let info = said(Command::new(opusinfo).arg(&path));
    assert!(!info.contains("WARNING"), "{info}");
    let probed = said(
        Command::new(ffprobe)
            .args(["-v", "warning"])
            .args(["-show_entries", "stream=codec_name"])
            .arg(&path),
    );
    assert_eq!(probed.trim(), "[STREAM]\ncodec_name=opus\n[/STREAM]");
    let wav = dir.path().join("message.wav");
    said(
        Command::new(opusdec)
            .args(["--quiet", "--rate", "48000", "--force-wav"])
            .args([&path, &wav]),
    );
    Some(samples_of(&wav))
}

fn samples_of(wav: &Path) -> Vec<i16> {
    read_wav(&std::fs::read(wav).unwrap()).unwrap()
}

/// All that a program says; it has to be content.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}
