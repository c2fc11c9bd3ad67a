//! `aftertone demo`: the whole system on loopback, the sandbox core and the service wired to it.

mod browser;
mod self_test;

mod settings;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use aftertone::clock::SystemClock;
use aftertone::sandbox::Sandbox;
use aftertone::server::Server;
use aftertone::signals::StopSignals;
use aftertone::telemetry;
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commands::demo::settings::{Ports, Settings};
use crate::commands::{STOP_DEADLINE, random};

#[derive(Args)]
#[command(after_help = "Examples:
  aftertone demo
  aftertone demo --port-base 9000 --data demo-data
  aftertone demo --self-test

Everything listens on 127.0.0.1, on ten ports from the base on (audio on any that are free), and nothing
is opened by itself.")]
pub(crate) struct Options {
    /// Keeps database and recordings there [default: a folder that is removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The first of the ten ports [default: 8080; with --self-test, any that are free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port_base: Option<u16>,
    /// Runs the whole story without a person: sign-in, call, busy, message, leaving
    #[arg(long)]
    self_test: bool,
    /// Which log lines are written, in the notation of RUST_LOG
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// Runs the demo until it is asked to stop, or tells itself whether it works.
pub(crate) async fn run(options: &Options, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    telemetry::init_log(&telemetry::Config {
        filter: options.log.clone(),
        ..telemetry::Config::default()
    })?;
    let mut stopped = StopSignals::listen()?;
    let data = Data::of(options.data.as_deref())?;
    let ports = Ports::choose(options.port_base, options.self_test)?;
    let settings = Settings::new(data.path(), ports)?;
    let demo = Demo::start(&settings).await?;
    let story = async {
        if options.self_test {
            return self_test::run(&settings, out).await;
        }
        // Nobody may be reading any more, which is no reason to stop.
        drop(say_what_to_try(&settings, out));
        std::future::pending().await
    };
    let status = tokio::select! {
        status = story => status,
        () = stopped.recv() => Ok(ExitCode::SUCCESS),
    };
    demo.stop().await?;
    status
}

/// Three lines: what to open, and what to try.
fn say_what_to_try(settings: &Settings, out: &mut impl Write) -> std::io::Result<()> {
    let (web, sandbox) = (settings.web(), settings.sandbox_pages());
    let (busy, caller) = (settings::SUBSCRIBER, settings::CALLER);
    writeln!(
        out,
        "1. Open {web}/ and sign in as {busy}; its text messages arrive at {sandbox}/phone/{busy}"
    )?;
    writeln!(
        out,
        "2. Open {sandbox}/ and let {caller} call {busy}, who is busy: the caller lands in voicemail"
    )?;
    writeln!(
        out,
        "3. Look at {web}/ again: the message is there. Ctrl-C ends the demo"
    )
}

/// The sandbox and the service, which know of each other what their configurations say.
struct Demo {
    server: Server,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Demo {
    async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let clock = Arc::new(SystemClock);
        Sandbox::start(&settings.sandbox, clock, &tasks, &stop, random()?)
            .await
            .context("the sandbox could not start; other ports are chosen with --port-base")?;
        let server = Server::start(&settings.service)
            .await
            .context("the service could not start; other ports are chosen with --port-base")?;
        Ok(Self {
            server,
            tasks,
            stop,
        })
    }

    /// The service first, so that it still has a core to say goodbye to.
    async fn stop(self) -> anyhow::Result<()> {
        self.server.drain(std::future::ready(())).await;
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(STOP_DEADLINE, self.tasks.wait())
            .await
            .context("the sandbox did not end in time")
    }
}

/// Where the demo keeps its data.
enum Data {
    Kept(PathBuf),
    /// Removed when this is dropped.
    Passing(PathBuf),
}

impl Data {
    fn of(named: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(folder) = named {
            let made = std::fs::create_dir_all(folder);
            made.with_context(|| format!("--data: {} cannot be made", folder.display()))?;
            return Ok(Self::Kept(folder.to_path_buf()));
        }
        let name = format!("aftertone-demo-{:016x}", u64::from_ne_bytes(random()?));
        let folder = std::env::temp_dir().join(name);
        let made = std::fs::create_dir(&folder);
        made.with_context(|| {
            format!(
                "{} cannot be made; name another folder with --data",
                folder.display()
            )
        })?;
        Ok(Self::Passing(folder))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(folder) | Self::Passing(folder) => folder,
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Self::Passing(folder) = self {
            // What is left lies in the folder for temporary files, and is nobody's real data.
            drop(std::fs::remove_dir_all(folder));
        }
    }
}
