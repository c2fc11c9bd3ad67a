//! `aftertone sandbox`: only the sandbox core.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use aftertone::clock::SystemClock;
use aftertone::config;
use aftertone::sandbox::{Config, Sandbox};
use aftertone::signals::StopSignals;
use aftertone::sip::Transport;
use aftertone::telemetry;
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commands::{STOP_DEADLINE, random};

#[derive(Args)]
#[command(after_help = "Examples:
  aftertone sandbox
  aftertone sandbox --config sandbox.toml

docs/sandbox.md explains the settings. Without any, it runs on loopback with nine numbers.")]
pub(crate) struct Options {
    /// A TOML file with the sandbox's settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the sandbox until it is asked to stop.
pub(crate) async fn run(options: &Options, out: &mut impl Write) -> anyhow::Result<()> {
    telemetry::init_log(&telemetry::Config::default())?;
    let config: Config = match &options.config {
        Some(file) => config::read_toml(file)?,
        None => Config::default(),
    };
    let mut stopped = StopSignals::listen()?;
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock);
    let sandbox = Sandbox::start(&config, clock, &tasks, &stop, random()?).await?;
    // Nobody may be reading any more, which is no reason to stop.
    drop(say_where(&sandbox, out));
    drop(say_numbers(&config, out));
    stopped.recv().await;
    stop.cancel();
    tasks.close();
    tokio::time::timeout(STOP_DEADLINE, tasks.wait())
        .await
        .context("the sandbox did not end in time")
}

fn say_where(sandbox: &Sandbox, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "pages   {}/", sandbox.issuer())?;
    writeln!(out, "issuer  {}", sandbox.issuer())?;
    writeln!(out, "grpc    http://{}", sandbox.grpc_addr())?;
    for transport in Transport::ALL {
        if let Some(address) = sandbox.sip_addr(transport) {
            writeln!(out, "sip     {}://{address}", transport.uri_name())?;
        }
    }
    Ok(())
}

/// The numbers that exist, and what their phones do.
pub(super) fn say_numbers(config: &Config, out: &mut impl Write) -> std::io::Result<()> {
    for number in &config.numbers {
        let (e164, name) = (number.number.e164(), &number.name);
        let does = number.behaviour.explained();
        writeln!(out, "{e164}  {name:<13}{does}")?;
    }
    Ok(())
}
