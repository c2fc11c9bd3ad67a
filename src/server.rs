//! The composition root: builds the service, starts it, supervises it, and drains it.

mod enrolment;

use std::future::Future;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use rand::TryRng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::http;
use crate::http::{Readiness, admin};
use crate::media::{self, Engine};
use crate::signals::StopSignals;
use crate::sip::{Sip, Transport};
use crate::storage::Storage;
use crate::storage::blob::Blobs;
use crate::storage::sqlite::SqliteStorage;
use crate::telemetry;
use crate::voicemail::prompts::Prompts;
use crate::voicemail::retention::Retention;
use crate::voicemail::{Parts, SpoolDir, Voicemail};

/// What a drain allows a call beyond its longest message: greeting, goodbye and deposit.
const DRAIN_MARGIN: Duration = Duration::from_secs(60);
/// Callers that we refuse while we stop may try again after this.
const DRAIN_RETRY_AFTER_SECS: u32 = 30;
/// How long calls that are cut short have to say BYE and deposit what was said.
const HARD_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long listeners, and everything else, have to end once the calls are over.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks at what only counts itself.
const OBSERVE_EVERY: Duration = Duration::from_secs(5);

/// Steps in which the lateness of frames is published.
const LATE_MS: [(&str, Duration); 5] = [
    ("1", Duration::from_millis(1)),
    ("5", Duration::from_millis(5)),
    ("10", Duration::from_millis(10)),
    ("20", Duration::from_millis(20)),
    ("more", Duration::MAX),
];

/// The running service.
pub struct Server {
    sip: Sip,
    http: SocketAddr,
    admin: SocketAddr,
    storage: Arc<dyn Storage>,
    engine: Engine,
    readiness: Readiness,
    /// The calls, and nothing else.
    calls: TaskTracker,
    /// Everything but the calls.
    tasks: TaskTracker,
    /// Ends the calls at once; what was said is kept.
    end_calls: CancellationToken,
    /// Ends everything else.
    stop: CancellationToken,
    drain_deadline: Duration,
}

/// Runs the service until a signal, then drains it; a second signal ends the calls at once.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut stopped = StopSignals::listen()?;
    let server = Server::start(&config).await?;
    // Nobody may be reading any more, which is no reason to stop.
    drop(server.say_where(&mut io::stdout()));
    tokio::select! {
        () = stopped.recv() => {}
        // Nobody can call any more: whoever watches over the process is to start it again.
        () = server.sip.ended() => {
            server.drain(std::future::ready(())).await;
            bail!("the SIP side has ended by a defect, which the log shows; what callers said is kept");
        }
    }
    info!("Stopping: calls under way go on, new ones are refused; a second signal ends them");
    server.drain(stopped.recv()).await;
    info!("Stopped");
    Ok(())
}

impl Server {
    /// Builds and starts everything the configuration names.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        raise_open_files();
        let metrics = telemetry::prometheus();
        let prompts = Arc::new(Prompts::load(&config.greeting)?);
        // Before anything else of the data is touched: it belongs to one service at a time.
        let spool = SpoolDir::open(&config.data_dir.join("spool"))?;
        let (storage, blobs) = open_stores(config).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let calls = TaskTracker::new();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let end_calls = CancellationToken::new();

        let engine = Engine::start(&config.media, seed()?)?;
        let voicemail = Voicemail::start(
            Parts {
                recording: config.recording.clone(),
                numbering: config.numbering(),
                spool,
                storage: Arc::clone(&storage),
                blobs: Arc::clone(&blobs),
                engine: engine.clone(),
                preferences: config.media.preferences(),
                prompts: Arc::clone(&prompts),
                clock: Arc::clone(&clock),
                tasks: calls.clone(),
                seed: seed()?,
            },
            &tasks,
            &stop,
        )?;
        let readiness = {
            let voicemail = voicemail.clone();
            Readiness::of_storage(Arc::clone(&storage), Arc::clone(&blobs))
                .and("spool", move || voicemail.check())
        };
        let admin = admin::serve(
            &config.admin,
            metrics.clone(),
            readiness.clone(),
            &tasks,
            stop.clone(),
        )
        .await?;
        let enrolment = enrolment::start(
            config,
            Arc::clone(&storage),
            Arc::clone(&clock),
            &tasks,
            &stop,
        )?;
        let state = http::State::new(
            Arc::clone(&storage),
            Arc::clone(&blobs),
            Arc::clone(&clock),
            prompts.default_greeting_wav(&config.greeting.language),
            config.public_url.as_deref().unwrap_or_default(),
            seed()?,
        )
        .with_enrolment(enrolment, &config.enrolment);
        let http = http::serve(&config.http, state, &tasks, stop.clone()).await?;
        let retention = Retention::new(
            Arc::clone(&storage),
            blobs,
            clock,
            config.recording.keep_days,
        );
        tasks.spawn(retention.run(stop.clone()));
        // Calls come in when everything that serves them is there.
        let (sip, incoming) = Sip::start(&config.sip, &tasks, stop.clone(), seed()?).await?;
        tasks.spawn(voicemail.run(incoming, end_calls.clone()));
        tasks.spawn(observe(engine.clone(), metrics, stop.clone()));
        Ok(Self {
            sip,
            http,
            admin,
            storage,
            engine,
            readiness,
            calls,
            tasks,
            end_calls,
            stop,
            drain_deadline: Duration::from_secs(config.recording.max_seconds.into()) + DRAIN_MARGIN,
        })
    }

    /// The address of the SIP listener for a transport.
    pub fn sip_addr(&self, transport: Transport) -> Option<SocketAddr> {
        self.sip
            .local_addrs()
            .iter()
            .find(|(t, _)| *t == transport)
            .map(|(_, addr)| *addr)
    }

    /// The address of the HTTP API.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// The address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The database.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// What the media workers have counted.
    pub fn media_stats(&self) -> media::Stats {
        self.engine.stats()
    }

    /// One line per listener, when everything is ready, for the person or script that started it.
    fn say_where(&self, out: &mut impl Write) -> io::Result<()> {
        for (transport, address) in self.sip.local_addrs() {
            writeln!(out, "sip    {}://{address}", transport.uri_name())?;
        }
        writeln!(out, "http   http://{}/api/openapi.json", self.http)?;
        writeln!(out, "admin  http://{}/readyz", self.admin)
    }

    /// Takes no new calls, lets those under way end, then stops. When `hurry` completes, or the
    /// longest message would be over, the calls are ended and what was said is kept.
    pub async fn drain(self, hurry: impl Future<Output = ()>) {
        self.readiness.set_draining();
        self.sip.set_draining(DRAIN_RETRY_AFTER_SECS);
        self.calls.close();
        tokio::select! {
            // Where there are none, nobody is in a hurry.
            biased;
            () = self.calls.wait() => {}
            () = hurry => warn!(calls = self.calls.len(), "Calls are ended at once"),
            () = tokio::time::sleep(self.drain_deadline) => {
                warn!(calls = self.calls.len(), "Calls are ended: they outlast the drain");
            }
        }
        self.end_calls.cancel();
        if tokio::time::timeout(HARD_STOP_DEADLINE, self.calls.wait())
            .await
            .is_err()
        {
            warn!(
                calls = self.calls.len(),
                "Calls are given up; their recordings are in the spool"
            );
        }
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait())
            .await
            .is_err()
        {
            warn!(tasks = self.tasks.len(), "Not everything ended in time");
        }
        self.engine.shutdown().await;
        self.storage.close().await;
    }
}

async fn open_stores(config: &Config) -> anyhow::Result<(Arc<dyn Storage>, Arc<Blobs>)> {
    let storage = SqliteStorage::open(&config.database_url()).await?;
    let blobs = Blobs::open(
        &config.data_dir.join("recordings"),
        &config.data_dir.join("conversions"),
        config.http.max_converted_bytes,
    )?;
    Ok((Arc::new(storage), Arc::new(blobs)))
}

/// What does not count itself is looked at now and then.
async fn observe(engine: Engine, metrics: PrometheusHandle, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(OBSERVE_EVERY))
        .await
        .is_some()
    {
        metrics.run_upkeep();
        publish(&engine.stats());
    }
}

/// Media workers count for themselves; their numbers become metrics here.
fn publish(stats: &media::Stats) {
    metrics::gauge!(telemetry::MEDIA_SESSIONS).set(stats.sessions as f64);
    metrics::counter!(telemetry::MEDIA_SENT).absolute(stats.packets_sent);
    let dropped: u64 = stats
        .packets_dropped
        .iter()
        .map(|(_, packets)| packets)
        .sum();
    let taken = stats.packets_received.saturating_sub(dropped);
    for (outcome, packets) in stats.packets_dropped.into_iter().chain([("taken", taken)]) {
        metrics::counter!(telemetry::MEDIA_PACKETS, "outcome" => outcome).absolute(packets);
    }
    for (kind, count) in [
        ("send", stats.send_errors),
        ("receive", stats.receive_errors),
        ("skipped-frame", stats.skipped_frames),
        ("defect", stats.panics),
    ] {
        metrics::counter!(telemetry::MEDIA_FAULTS, "kind" => kind).absolute(count);
    }
    let mut below = Duration::ZERO;
    for (name, bound) in LATE_MS {
        let within = |late: Duration| late > below && late <= bound;
        let frames = stats.lateness.buckets().filter(|(late, _)| within(*late));
        let frames = frames.map(|(_, frames)| frames).sum();
        metrics::counter!(telemetry::MEDIA_LATENESS, "late_ms" => name).absolute(frames);
        below = bound;
    }
}

/// A seed of the system's chance, for a generator of its own.
fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    rand::rngs::SysRng
        .try_fill_bytes(&mut seed)
        .context("the system gives no random numbers")?;
    Ok(seed)
}

/// Connections and media ports are files: as many may be open as the system allows this process at
/// most. The usual limit of 1024 is for programs that use `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "No more than {:?} files can be open at the same time", limit.current);
    }
}
