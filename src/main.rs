//! The `aftertone` command. Each command is a few lines over the library.

mod commands;

use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aftertone::config::Config;
use aftertone::telemetry::{self, LogFormat};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::commands::{call, check, subscribers, tokens};
#[cfg(feature = "sandbox")]
use crate::commands::{demo, sandbox};

/// So long the start waits for the workers' threads at most.
const WORKERS_WAIT: Duration = Duration::from_secs(1);
/// Name of the threads that may wait for the disk, and how far they stand back (nice(2)).
const BLOCKING: &str = "blocking";
const NICENESS: i32 = 5;

/// Voicemail for telephone operators, MVNOs and small firms.
#[derive(Parser)]
#[command(
    name = "aftertone",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the whole system on this machine: a mobile core of its own, and the service
    #[cfg(feature = "sandbox")]
    Demo(demo::Options),
    /// Runs the service: takes calls, keeps messages, answers the HTTP API
    #[command(after_help = "Examples:
  aftertone serve
  aftertone serve --config /etc/aftertone.toml --log-format json")]
    Serve(Common),
    /// Runs a mobile core to try a voicemail service with: identity server, registrations, SIP
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Options),
    /// Calls a SIP URI, says something and saves what it hears
    Call(Box<call::Call>),
    /// Adds, lists and removes subscribers
    Subscribers {
        #[command(subcommand)]
        command: subscribers::Command,
        #[command(flatten)]
        common: Common,
    },
    /// Makes, lists and revokes API tokens
    Tokens {
        #[command(subcommand)]
        command: tokens::Command,
        #[command(flatten)]
        common: Common,
    },
    /// Tries everything the configuration names and says what is wrong
    #[command(after_help = "Examples:
  aftertone check
  aftertone check --config /etc/aftertone.toml

Exit status: 0 where nothing is wrong (warnings may be there), 1 where something is.")]
    Check(Common),
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// The configuration file [default: $AFTERTONE_CONFIG, else ./aftertone.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look [default: the setting log.format]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Common {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        telemetry::init_log(&config.log)?;
        Ok(config)
    }

    /// For a short command: it tells what it does itself, and the log tells what went wrong.
    fn load_quietly(&self) -> anyhow::Result<Config> {
        let config = Config::load(self.config.as_deref())?;
        telemetry::init_log(&quiet(&config.log))?;
        Ok(config)
    }
}

fn quiet(log: &telemetry::Config) -> telemetry::Config {
    telemetry::Config {
        filter: "warn".into(),
        ..log.clone()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An error says that a provider is there already, which serves as well.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    match run(arguments.command) {
        Ok(status) => status,
        // Who reads our output has seen enough: `aftertone subscribers list | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            commands::say(format_args!("aftertone: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = runtime().context("the runtime could not be started")?;
    runtime.block_on(async {
        let out = &mut io::stdout();
        match command {
            #[cfg(feature = "sandbox")]
            Command::Demo(options) => return demo::run(&options, out).await,
            #[cfg(feature = "sandbox")]
            Command::Sandbox(options) => sandbox::run(&options, out).await?,
            Command::Serve(common) => aftertone::server::run(common.load()?).await?,
            Command::Call(call) => {
                telemetry::init_log(&quiet(&telemetry::Config::default()))?;
                call::run(*call, out).await?;
            }
            Command::Subscribers { command, common } => {
                subscribers::run(command, &common.load_quietly()?, out).await?;
            }
            Command::Tokens { command, common } => {
                tokens::run(command, &common.load_quietly()?, out).await?;
            }
            Command::Check(common) => return check::run(&common.load_quietly()?, out).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// As many workers as there are cores, and threads for what may wait for the disk. When a sync of the disk ends, dozens
/// of these wake at once; a call that is to be answered does not queue behind them.
fn runtime() -> io::Result<Runtime> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    // The workers are started first.
    let started = AtomicUsize::new(0);
    let name = move || match started.fetch_add(1, Ordering::Relaxed) {
        nth if nth < workers => format!("worker-{nth}"),
        _ => BLOCKING.to_owned(),
    };
    let stand_back = || {
        if thread::current().name() == Some(BLOCKING) {
            rustix::process::nice(NICENESS).ok();
        }
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name_fn(name)
        .on_thread_start(stand_back)
        .enable_all()
        .build()?;
    await_workers(&runtime, workers);
    Ok(runtime)
}

/// Waits until each worker has its thread. The runtime has whichever thread is there first run what is to be run: one
/// that stands back, started right after the workers', would become a worker for good.
fn await_workers(runtime: &Runtime, workers: usize) {
    let present = Arc::new((Mutex::new(0), Condvar::new()));
    let all_are_there = {
        let present = Arc::clone(&present);
        move || {
            let (count, changed) = &*present;
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            changed.notify_all();
            // Who waits here is one worker, and each of the others another.
            drop(changed.wait_timeout_while(count, WORKERS_WAIT, |count| *count <= workers));
        }
    };
    for _ in 0..workers {
        let all_are_there = all_are_there.clone();
        runtime.spawn(async move { all_are_there() });
    }
    all_are_there();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_wait_for_the_disk_stands_back_behind_the_workers() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        // Now and then a thread is late.
        for _ in 0..50 {
            let runtime = runtime().unwrap();
            let worker = runtime.spawn(async move { niceness() });
            let blocking = runtime.spawn_blocking(niceness);
            let (worker, blocking) = runtime.block_on(async { (worker.await, blocking.await) });
            assert_eq!(worker.unwrap(), before);
            assert_eq!(blocking.unwrap(), (before + NICENESS).min(19));
        }
    }
}
