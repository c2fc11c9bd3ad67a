//! `aftertone check`: tries everything the configuration names, and says how to mend what is wrong.

mod certificate;
mod core;
mod disk;
mod identity;
mod keys;
mod network;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use aftertone::config::Config;
use aftertone::media::audio::Prompt;
use aftertone::storage::Storage;

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    /// It works, but somebody should know.
    Warn,
    Fail,
}

/// One thing that was tried: the setting that names it, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    setting: &'static str,
    sentence: String,
}

impl Finding {
    fn ok(setting: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            setting,
            sentence: sentence.into(),
        }
    }

    fn warn(setting: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            setting,
            sentence: sentence.into(),
        }
    }

    fn fail(setting: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            setting,
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level}  {:<20}  {}", self.setting, self.sentence)
    }
}

/// Tries everything. The exit status tells whether something is wrong.
pub(crate) async fn run(config: &Config, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut failed = 0;
    let mut tell = |findings: Vec<Finding>| {
        failed += findings
            .iter()
            .filter(|finding| finding.level == Level::Fail)
            .count();
        findings
            .iter()
            .try_for_each(|finding| writeln!(out, "{finding}"))
    };
    tell(vec![file(config)])?;
    tell(disk::check(&config.data_dir))?;
    tell(vec![database(config).await])?;
    tell(network::check(config).await)?;
    tell(certificate::check(&config.sip))?;
    tell(vec![greeting(config)])?;
    tell(core::check(config).await)?;
    tell(identity::check(config).await)?;
    tell(keys::check(config).await.into_iter().collect())?;
    if failed == 0 {
        writeln!(out, "Nothing is wrong.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let things = if failed == 1 {
        "thing is"
    } else {
        "things are"
    };
    writeln!(out, "{failed} {things} wrong.")?;
    Ok(ExitCode::FAILURE)
}

fn file(config: &Config) -> Finding {
    match &config.file {
        Some(path) => Finding::ok("configuration", format!("{} makes sense", path.display())),
        None => Finding::ok(
            "configuration",
            "there is no file, the defaults hold: a service on loopback",
        ),
    }
}

async fn database(config: &Config) -> Finding {
    const SETTING: &str = "database_url";
    let url = config.database_url();
    if !std::path::Path::new(database_file(&url)).exists() {
        return Finding::ok(SETTING, format!("{url} will be made at the first start"));
    }
    let storage = match crate::commands::open_storage(config).await {
        Ok(storage) => storage,
        Err(error) => return Finding::fail(SETTING, chain(&error)),
    };
    let ping = storage.ping().await;
    storage.close().await;
    match ping {
        Ok(()) => Finding::ok(SETTING, format!("{url} can be read and written")),
        Err(error) => Finding::fail(SETTING, chain(&error)),
    }
}

/// The file that a `database_url` names.
fn database_file(url: &str) -> &str {
    let file = url.trim_start_matches("sqlite:").trim_start_matches("//");
    file.split('?').next().unwrap_or(file)
}

fn greeting(config: &Config) -> Finding {
    const SETTING: &str = "greeting.file";
    let Some(path) = &config.greeting.file else {
        return Finding::ok(SETTING, "is not set, the built-in greetings are played");
    };
    let shown = path.display();
    let file = match std::fs::read(path) {
        Ok(file) => file,
        Err(error) => {
            return Finding::fail(
                SETTING,
                format!("\"{shown}\" cannot be read ({error}); name a WAV file, or leave it out"),
            );
        }
    };
    match Prompt::from_wav(&file) {
        Ok(_) => Finding::ok(SETTING, format!("\"{shown}\" can be played")),
        Err(error) => Finding::fail(
            SETTING,
            format!("\"{shown}\" is no usable WAV: {}", chain(&error)),
        ),
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
