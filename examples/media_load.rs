//! Measures one media worker: so many calls that are greeted, then recorded, on loopback.
//!
//! `cargo run --release --example media_load -- [CALLS] [SECONDS]`
//!
//! The callers share the machine with the worker, so what is told of the worker alone is its
//! thread's processor time.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aftertone::media::Config;
use aftertone::media::Direction;
use aftertone::media::Engine;
use aftertone::media::MediaParams;
use aftertone::media::RecordLimits;
use aftertone::media::Session;
use aftertone::media::Stats;
use aftertone::media::audio::Codec;
use aftertone::media::audio::Law;
use aftertone::media::audio::Prompt;
use aftertone::media::audio::Tone;
use aftertone::media::rtp::Header;
use aftertone::media::sdp::Keying;
use anyhow::Context;
use tokio::time::Instant;

const SLOTS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let calls: usize = arguments.next().map_or(Ok(2_000), |n| n.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(10), |n| n.parse())?;
    allow_sockets(calls)?;

    let config = Config {
        listen: "127.0.0.1:0".parse()?,
        workers: 1,
        ..Config::default()
    };
    let engine = Engine::start(&config, [1; 32])?;
    let before = resident_kib()?;
    let (sockets, mut sessions) = open(&engine, calls).await?;
    println!("{} · {calls} calls · {seconds} s each", machine());
    println!(
        "resident: {} KiB for each call opened",
        (resident_kib()? - before) / calls as u64
    );

    let greeting =
        Prompt::from_samples(Tone::new(440.0, 0.2).take_ms(1_000 * (seconds as usize + 2)));
    let greeting = Arc::new(greeting);
    for session in &mut sessions {
        session.play(greeting.clone());
        tokio::task::yield_now().await;
    }
    measure("greeting", &engine, seconds, calls).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let callers = std::thread::spawn({
        let stop = stop.clone();
        move || speak(&sockets, &stop)
    });
    let writers = record(&mut sessions);
    measure("recording", &engine, seconds, calls).await?;
    println!(
        "resident: {} KiB for each call recording",
        (resident_kib()? - before) / calls as u64
    );
    stop.store(true, Ordering::Relaxed);
    let sent = callers.join().ok().context("the callers failed")?;
    judge(&engine, sessions, writers, sent).await
}

async fn open(engine: &Engine, calls: usize) -> anyhow::Result<(Vec<UdpSocket>, Vec<Session>)> {
    let (mut sockets, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..calls {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let remote = Some(socket.local_addr()?);
        let params = MediaParams {
            remote,
            remote_rtcp: remote,
            rtcp_mux: true,
            codec: Codec::Pcma,
            payload_type: 8,
            telephone_event_clock: 8_000,
            telephone_event: Some(101),
            comfort_noise: None,
            direction: Direction::SendRecv,
            ptime_ms: 20,
            keying: Keying::Plain,
            ice: None,
        };
        let session = engine.open(&params).await?;
        socket.connect(session.local_addr())?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
        sessions.push(session);
    }
    Ok((sockets, sessions))
}

type Writer = tokio::task::JoinHandle<u64>;

fn record(sessions: &mut [Session]) -> Vec<Writer> {
    let limits = RecordLimits {
        preroll: Duration::ZERO,
        ..RecordLimits::default()
    };
    let tasks = tokio_util::task::TaskTracker::new();
    let start = |session: &mut Session| {
        session.stop_playing();
        let mut chunks = session.record(limits);
        tasks.spawn(async move {
            let mut ticks = 0;
            while let Some(chunk) = chunks.recv().await {
                ticks = chunk.ticks;
            }
            ticks
        })
    };
    sessions.iter_mut().map(start).collect()
}

/// All callers say the same: 20 ms each, every 20 ms. Tells how many frames each has sent.
fn speak(sockets: &[UdpSocket], stop: &AtomicBool) -> u64 {
    let mut payload = [0; 160];
    Law::A.encode(&Tone::new(700.0, 0.2).take_ms(20), &mut payload);
    let mut packet = [0; 172];
    packet[12..].copy_from_slice(&payload);
    let mut due = Instant::now();
    let mut frame = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        for slot in 0..SLOTS {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += Duration::from_millis(1);
            for (nth, socket) in sockets.iter().enumerate().skip(slot).step_by(SLOTS) {
                let header = Header {
                    payload_type: 8,
                    marker: frame == 0,
                    sequence: frame as u16,
                    timestamp: frame * 160,
                    ssrc: nth as u32,
                };
                packet[..12].copy_from_slice(&header.to_bytes());
                socket.send(&packet).ok();
            }
        }
        frame += 1;
    }
    u64::from(frame)
}

async fn measure(what: &str, engine: &Engine, seconds: u64, calls: usize) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (from, cpu) = (engine.stats(), worker_cpu()?);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let elapsed = started.elapsed().as_secs_f64();
    let (to, cpu) = (engine.stats(), worker_cpu()? - cpu);
    let late = to.lateness.since(&from.lateness);
    let rate = |of: fn(&Stats) -> u64| (of(&to) - of(&from)) as f64 / elapsed;
    let cores = cpu.as_secs_f64() / elapsed;
    println!(
        "{what:>9}: {cores:.3} cores · {:.1} µs per call-second · in {:.0}/s out {:.0}/s · \
         late p50 {:?} p99 {:?} p99.9 {:?}, most ever {:?} · skipped {}",
        1e6 * cores / calls as f64,
        rate(|stats| stats.packets_received),
        rate(|stats| stats.packets_sent),
        late.quantile(0.5),
        late.quantile(0.99),
        late.quantile(0.999),
        to.lateness.max,
        to.skipped_frames - from.skipped_frames,
    );
    Ok(())
}

async fn judge(
    engine: &Engine,
    sessions: Vec<Session>,
    writers: Vec<Writer>,
    sent: u64,
) -> anyhow::Result<()> {
    let (mut whole, mut lost, calls) = (0, 0, sessions.len());
    for (mut session, writer) in sessions.into_iter().zip(writers) {
        let summary = session.flush().await;
        anyhow::ensure!(
            writer.await? == summary.ticks,
            "the summary tells another length"
        );
        whole += usize::from(summary.ticks == sent * 960 && summary.lost_packets == 0);
        lost += summary.lost_packets;
    }
    println!(
        "{whole} of {calls} recordings are whole; {lost} of {} packets lost",
        sent * calls as u64
    );
    println!("dropped: {:?}", engine.stats().packets_dropped);
    Ok(())
}

/// Processor time of the worker's thread.
fn worker_cpu() -> anyhow::Result<Duration> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim() == "media-0" {
            // The first number is nanoseconds on a processor.
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            let nanos = text.split(' ').next().context("an empty schedstat")?;
            return Ok(Duration::from_nanos(nanos.parse()?));
        }
    }
    anyhow::bail!("no media worker")
}

fn resident_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(number.parse()?)
}

fn machine() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split(':').nth(1))
        .unwrap_or("unknown processor");
    format!("{} · {cores} cores of{model}", host.trim())
}

/// A socket for each call, and some more.
fn allow_sockets(calls: usize) -> anyhow::Result<()> {
    use rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(Nofile);
    let wanted = calls as u64 + 200;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        rustix::process::setrlimit(Nofile, limit)
            .context("cannot have so many sockets (ulimit -n)")?;
    }
    Ok(())
}
