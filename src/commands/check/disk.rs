//! Whether the data directory can take recordings.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use crate::commands::check::Finding;

const SETTING: &str = "data_dir";
/// Below this, hardly a day of messages fits.
const LITTLE_BYTES: u64 = 1_000_000_000;
/// Below this the service may not even start.
const NOTHING_BYTES: u64 = 100_000_000;

pub(super) fn check(dir: &Path) -> Vec<Finding> {
    let existing = existing_part(dir);
    vec![writable(dir, &existing), free_space(&existing)]
}

/// The folder itself, or the nearest one above it that exists: the service makes the rest.
fn existing_part(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let existing = absolute.ancestors().find(|part| part.exists());
    existing.unwrap_or(Path::new("/")).to_path_buf()
}

fn writable(dir: &Path, existing: &Path) -> Finding {
    let shown = dir.display();
    if !existing.is_dir() {
        return Finding::fail(
            SETTING,
            format!("\"{}\" is no folder; name another", existing.display()),
        );
    }
    if let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        return Finding::fail(
            SETTING,
            format!(
                "\"{}\" cannot be written ({error}); give it to the user that the service runs as",
                existing.display()
            ),
        );
    }
    if dir.exists() {
        Finding::ok(SETTING, format!("\"{shown}\" can be written"))
    } else {
        Finding::ok(
            SETTING,
            format!("\"{shown}\" will be made at the first start"),
        )
    }
}

fn free_space(existing: &Path) -> Finding {
    match statvfs(existing) {
        Ok(disk) => judge_space(disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => Finding::warn(SETTING, format!("the free space cannot be told ({error})")),
    }
}

fn judge_space(free: u64) -> Finding {
    // A recording is 16,000 bytes a second.
    let hours = free / 16_000 / 3600;
    let megabytes = free / 1_000_000;
    let sentence = format!("{megabytes} MB are free, for {hours} hours of messages");
    if free < NOTHING_BYTES {
        Finding::fail(
            SETTING,
            format!("{sentence}; make room or name another disk"),
        )
    } else if free < LITTLE_BYTES {
        Finding::warn(SETTING, format!("{sentence}; make room soon"))
    } else {
        Finding::ok(SETTING, sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("a/b");
        let finding = &check(&wanted)[0];
        assert_eq!(finding.level, Level::Ok);
        assert!(finding.sentence.contains("will be made"), "{finding}");
        assert!(!wanted.exists(), "a check leaves nothing behind");
    }

    #[test]
    fn a_file_in_the_way_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let finding = &check(&file.path().join("data"))[0];
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.sentence.contains("is no folder"), "{finding}");
    }

    #[test]
    fn little_space_warns_and_none_fails() {
        assert_eq!(judge_space(2_000_000_000).level, Level::Ok);
        assert_eq!(judge_space(999_999_999).level, Level::Warn);
        assert_eq!(judge_space(99_999_999).level, Level::Fail);
        assert!(judge_space(5_760_000_000).sentence.contains("100 hours"));
    }
}
