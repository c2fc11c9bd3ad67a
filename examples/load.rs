//! Load on a real server, and a verdict: how many calls, at what price, how late, and whether every sample that was
//! said is in the recordings.
//!
//! ```text
//! cargo build --release --bins --examples
//! target/release/examples/load
//! target/release/examples/load --phases recording --calls 500 --seconds 10
//! ```
//!
//! The server runs as a process of its own on one core, the callers on another, all on loopback. What the figures
//! mean and what they were: `docs/performance.md`.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a program, and its modules are for it alone"
)]

#[path = "load/bare.rs"]
mod bare;
#[path = "load/clock.rs"]
mod clock;
#[path = "load/fleet.rs"]
mod fleet;
#[path = "load/message.rs"]
mod message;
#[path = "load/phases.rs"]
mod phases;
#[path = "load/report.rs"]
mod report;
#[path = "load/secured.rs"]
mod secured;
#[path = "load/server.rs"]
mod server;
#[path = "load/voice.rs"]
mod voice;
#[path = "load/wire.rs"]
mod wire;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::report::{Machine, Report};

/// Puts load on a server of its own and judges what comes of it.
#[derive(Parser)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Role>,
    /// What is measured, in this order
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "bare,setup,greeting,recording,whole,secured,answer,most"
    )]
    phases: Vec<Phase>,
    /// Calls at the same time
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    calls: u32,
    /// For how long all of them are there and measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Calls placed each second until they are there
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Calls at the same time that are tried in the phase of most calls
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,2000,3000,4000,5000,6000,7000,8000"
    )]
    steps: Vec<u32>,
    /// Length of the greeting in the phase of whole calls
    #[arg(long, default_value_t = 5.0)]
    greeting_seconds: f64,
    /// Length of a call in the phase of whole calls
    #[arg(long, default_value_t = 30.0)]
    call_seconds: f64,
    /// Calls that are being set up at the same time in the closed loop
    #[arg(long, default_value_t = 20)]
    setups: usize,
    /// Media workers of the server
    #[arg(long, default_value_t = 1)]
    media_workers: usize,
    /// The core that the server gets
    #[arg(long, default_value_t = 1)]
    server_core: usize,
    /// The core that the callers get
    #[arg(long, default_value_t = 0)]
    load_core: usize,
    /// The server [default: `aftertone` beside the folder of this program]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the servers' folders are made [default: the system's folder for temporary files]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Keeps the servers' folders
    #[arg(long)]
    keep: bool,
    /// Also tells the CPU time of each of the server's threads
    #[arg(long)]
    threads: bool,
}

/// What this process is, if it is not the load.
#[derive(Subcommand)]
enum Role {
    /// Receives, sends and appends to files as a server would, and does nothing else
    #[command(hide = true)]
    Bare(bare::Plan),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// What the kernel's part of greeting, recording and whole calls costs
    Bare,
    /// Calls are set up and hung up at once, as many as can be
    Setup,
    /// All calls listen to a greeting
    Greeting,
    /// All calls are recorded
    Recording,
    /// Calls come and go: greeting, beep, message
    Whole,
    /// As before over DTLS-SRTP
    Secured,
    /// As before in the clear with 200 calls, for how soon they are answered
    Answer,
    /// As before with more and more calls
    Most,
}

impl Arguments {
    fn binary(&self) -> anyhow::Result<PathBuf> {
        if let Some(binary) = &self.binary {
            return Ok(binary.clone());
        }
        let ours = std::env::current_exe()?;
        let beside = ours
            .ancestors()
            .nth(2)
            .context("this program has no folder")?;
        let binary = beside.join("aftertone");
        if !binary.exists() {
            bail!(
                "{} is not there; build it, or name another with --binary",
                binary.display()
            );
        }
        Ok(binary)
    }

    fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(std::env::temp_dir)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::parse();
    if let Some(Role::Bare(plan)) = &arguments.command {
        bare::run(plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut place = tempfile::tempdir_in(arguments.data()).context("no folder can be made")?;
    place.disable_cleanup(arguments.keep);
    spread(place.path());
    arguments.data = Some(place.path().to_owned());
    println!("{}", Machine::here());
    let mut report = Report::default();
    for phase in &arguments.phases {
        match phase {
            Phase::Bare => phases::bare(&arguments, &mut report)?,
            Phase::Setup => phases::setup(&arguments, &mut report)?,
            Phase::Greeting => phases::greeting(&arguments, &mut report)?,
            Phase::Recording => phases::recording(&arguments, &mut report)?,
            Phase::Whole => phases::whole(&arguments, &mut report)?,
            Phase::Secured => phases::secured(&arguments, &mut report)?,
            Phase::Answer => phases::answer(&arguments, &mut report)?,
            Phase::Most => phases::most(&arguments, &mut report)?,
        }
    }
    report.summary();
    Ok(if report.failures() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Asks the file system, where it is one that knows this (chattr +T), to put each folder that is made in this one into
/// another part of the disk. What has just been deleted there, by a run before, is passed over whenever a file is made,
/// and that is not to be measured.
fn spread(folder: &Path) {
    let ask = || -> std::io::Result<()> {
        let folder = File::open(folder)?;
        let flags = ioctl_getflags(&folder)?;
        Ok(ioctl_setflags(&folder, flags | IFlags::TOPDIR)?)
    };
    // It only makes figures steadier.
    ask().ok();
}
