//! The phases of a measurement, each with a server of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::Arguments;
use crate::clock::{Nanos, SECOND, now, seconds};
use crate::fleet::{Crew, Fleet, Script, Start};
use crate::report::{Figure, Report, Times};
use crate::server::{BareServer, BareSetup, Cpu, Metrics, Server, Setup};
use crate::voice::Voice;

/// Frames in a second.
const FRAMES: f64 = 50.0;
/// From the end of the greeting to the first word: the beep, and a breath.
const BREATH: f64 = 1.0;
/// The server publishes the numbers of its media so often.
const PUBLISHED: Duration = Duration::from_secs(6);
/// Calls at a time while it is measured how soon they are answered.
const ANSWERED: u32 = 200;
/// With more than this, calls are not served well: p99 of what is heard, and of INVITE to 200.
const MOST_LATE_MS: f64 = 5.0;
const LATEST_ANSWER_MS: f64 = 50.0;
/// How long the last calls may take to end, and their messages to be stored.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls set up and hung up at once: first as many as can be, then at steady rates.
pub fn setup(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let server = start(arguments, 5.0)?;
    let voice = Voice::new();
    let time = f64::from(arguments.seconds.min(20));
    report.table("Set-up: INVITE, 200, ACK, BYE, 200; each leaves a missed call");
    report.row(
        "resident memory, idle",
        format_args!("{:.1} MiB", server.idle_kib() as f64 / 1024.0),
    );

    let mut fleet = Fleet::new(server.sip, &voice, Script::default(), 0, false)?;
    fleet
        .crew
        .place(usize::MAX, Start::Always(arguments.setups));
    fleet.run_for(SECOND);
    let (cpu, ended, began) = (server.cpu()?, fleet.crew.tally.ended, now());
    fleet.crew.tally.setup.clear();
    fleet.run_for(seconds(time));
    let elapsed = (now() - began) as f64 / SECOND as f64;
    let ended = (fleet.crew.tally.ended - ended) as f64;
    let cpu = server.cpu()?.since(cpu);
    fleet.crew.place(0, Start::Always(0));
    fleet.run_until(40 * SECOND, |crew| crew.live() == 0);
    report.row("closed loop, calls at a time", arguments.setups);
    report.row("set-ups per second", format_args!("{:.0}", ended / elapsed));
    report.row(
        "CPU ms per set-up (user + system)",
        format_args!(
            "{:.3} ({:.3} + {:.3})",
            cpu.total() / ended,
            cpu.user / ended,
            cpu.system / ended
        ),
    );
    report.row(
        "server's core in use",
        format_args!("{:.1} %", cpu.total() / elapsed / 10.0),
    );
    report.tally(&fleet.crew.tally);
    let next = fleet.crew.next_number();
    drop(fleet);

    let most = steady_rate(&server, &voice, next, report)?;
    report.row("most set-ups per second without a retransmission", most);
    report.note(Figure::SetUps, most);
    server.stop(arguments.keep)
}

/// The highest rate at which nothing was sent again and nothing piled up, to a tenth.
fn steady_rate(
    server: &Server,
    voice: &Voice,
    mut next: u32,
    report: &mut Report,
) -> anyhow::Result<u32> {
    let (mut good, mut bad) = (0, None);
    let mut rate = 200;
    loop {
        let is_good = holds(server, voice, rate, &mut next, report)?;
        if is_good {
            good = rate;
        } else {
            bad = Some(rate);
        }
        rate = match bad {
            None => rate * 2,
            Some(bad) if bad - good <= (good / 10).max(20) => return Ok(good),
            Some(bad) => (good + bad) / 2,
        };
        if rate > 20_000 {
            return Ok(good);
        }
    }
}

fn holds(
    server: &Server,
    voice: &Voice,
    rate: u32,
    next: &mut u32,
    report: &mut Report,
) -> anyhow::Result<bool> {
    const SECONDS: u32 = 5;
    server.wait_until(PATIENCE, |metrics| {
        metrics.sum("aftertone_calls", "") == 0.0
    })?;
    let mut fleet = Fleet::new(server.sip, voice, Script::default(), *next, false)?;
    let cpu = server.cpu()?;
    fleet
        .crew
        .place((rate * SECONDS) as usize, Start::Rate(f64::from(rate)));
    fleet.run_until(Nanos::from(SECONDS + 1) * SECOND, |crew| {
        crew.to_come() == 0
    });
    // What is not done within a second has piled up.
    fleet.run_until(SECOND, |crew| crew.live() == 0);
    let in_time = fleet.crew.tally.ended == (rate * SECONDS) as usize;
    let waiting = server.metrics()?.sum("aftertone_calls", "");
    let live = fleet.crew.live() + fleet.crew.to_come();
    fleet.run_until(40 * SECOND, |crew| crew.live() == 0);
    let began = now();
    server.wait_until(PATIENCE, |metrics| {
        metrics.sum("aftertone_calls", "") == 0.0
    })?;
    let late = (now() - began) as f64 / SECOND as f64;
    let cpu = server.cpu()?.since(cpu);
    let tally = &fleet.crew.tally;
    let is_good =
        in_time && tally.resent == 0 && tally.answers_again == 0 && waiting < f64::from(rate) / 2.0;
    report.times(
        &format!("at {rate} a second: INVITE to 200, p50 / p99 / max"),
        &tally.setup,
    );
    let each = |ms: f64| ms / tally.placed as f64;
    report.row(
        &format!("at {rate} a second: CPU ms per call, until stored"),
        format_args!(
            "{:.3} ({:.3} + {:.3})",
            each(cpu.total()),
            each(cpu.user),
            each(cpu.system)
        ),
    );
    if !is_good {
        report.row(
            &format!("at {rate} a second: too much"),
            format_args!(
                "{} sent again, {} 200s again, {live} calls not over in time, {waiting} not stored, the last after {late:.1} s",
                tally.resent, tally.answers_again,
            ),
        );
    }
    *next = fleet.crew.next_number();
    Ok(is_good)
}

/// All calls listen to a greeting that is longer than the phase.
pub fn greeting(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let length = ramp_seconds(arguments) + f64::from(arguments.seconds) + 10.0;
    let script = Script {
        quiet: (length * FRAMES) as usize,
        talk: 0,
    };
    let title = format!(
        "Greeting: {} calls listen, and send silence",
        arguments.calls
    );
    let held = hold(arguments, report, &title, length + 10.0, script)?;
    report.note(Figure::Greeting, format_args!("{:.3}", held.cpu));
    Ok(())
}

/// All calls are recorded after a short greeting.
pub fn recording(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let length = ramp_seconds(arguments) + f64::from(arguments.seconds) + 5.0;
    let script = Script {
        quiet: ((1.0 + BREATH) * FRAMES) as usize,
        talk: (length * FRAMES) as usize,
    };
    let title = format!("Recording: {} calls speak", arguments.calls);
    let held = hold(arguments, report, &title, 1.0, script)?;
    report.note(Figure::Recording, format_args!("{:.3}", held.cpu));
    report.note(Figure::Memory, format_args!("{:.1} KiB", held.memory));
    Ok(())
}

fn ramp_seconds(arguments: &Arguments) -> f64 {
    f64::from(arguments.calls) / arguments.rate
}

/// Brings all calls up, measures while they are, and lets them end.
fn hold(
    arguments: &Arguments,
    report: &mut Report,
    title: &str,
    greeting_seconds: f64,
    script: Script,
) -> anyhow::Result<Held> {
    let server = start(arguments, greeting_seconds)?;
    let voice = Voice::new();
    let calls = arguments.calls as usize;
    let mut fleet = Fleet::new(server.sip, &voice, script, 0, false)?;
    fleet.crew.place(calls, Start::Rate(arguments.rate));
    let ramp = seconds(ramp_seconds(arguments) * 1.5 + 5.0);
    fleet.run_until(ramp, |crew| crew.up() + crew.tally.failed() == calls);
    // The last greeting is over, and the beep.
    fleet.run_for(3 * SECOND);
    report.table(title);
    let up = fleet.crew.up();
    report.check("calls up", up == calls, up);
    let window = Window::measure(arguments, &server, &mut fleet)?;
    finish(arguments, server, &mut fleet, &window, report)
}

/// Calls come at the rate at which they go: as many of each stage at any time as in a day's busy hour.
pub fn whole(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let held = busy_hour(arguments, report, arguments.calls, false)?;
    report.note(Figure::Whole, format_args!("{:.3}", held.cpu));
    Ok(())
}

/// The same over DTLS-SRTP, with ICE.
pub fn secured(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let held = busy_hour(arguments, report, arguments.calls, true)?;
    report.note(Figure::WholeSecured, format_args!("{:.3}", held.cpu));
    Ok(())
}

/// A few whole calls, for how soon they are answered and hear something.
pub fn answer(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let held = busy_hour(arguments, report, ANSWERED.min(arguments.calls), false)?;
    for (figure, times) in [
        (Figure::Answer, held.setup),
        (Figure::FirstMedia, held.first_media),
    ] {
        if let Some(Times { p50, p99, .. }) = times {
            report.note(figure, format_args!("{p50:.1} / {p99:.1} ms"));
        }
    }
    Ok(())
}

/// The most whole calls at once that are all as they should be, among `--steps`.
pub fn most(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let mut most = 0;
    for &calls in &arguments.steps {
        let held = busy_hour(arguments, report, calls, false)?;
        let below = |times: Option<Times>, limit: f64| times.is_some_and(|times| times.p99 < limit);
        let good = held.is_good
            && below(held.lateness, MOST_LATE_MS)
            && below(held.setup, LATEST_ANSWER_MS);
        report.row(&format!("{calls} calls at once are served well"), good);
        if !good {
            break;
        }
        most = calls;
    }
    report.note(Figure::Most, most);
    Ok(())
}

fn busy_hour(
    arguments: &Arguments,
    report: &mut Report,
    calls: u32,
    is_secured: bool,
) -> anyhow::Result<Held> {
    let server = start(arguments, arguments.greeting_seconds)?;
    let voice = Voice::new();
    let quiet = ((arguments.greeting_seconds + BREATH) * FRAMES) as usize;
    let whole = (arguments.call_seconds * FRAMES) as usize;
    let script = Script {
        quiet,
        talk: whole.saturating_sub(quiet).max(50),
    };
    let mut fleet = Fleet::new(server.sip, &voice, script, 0, is_secured)?;
    let rate = f64::from(calls) / arguments.call_seconds;
    let placed = (rate * (arguments.call_seconds + f64::from(arguments.seconds) + 2.0)) as usize;
    fleet.crew.place(placed, Start::Rate(rate));
    fleet.run_for(seconds(arguments.call_seconds + 1.0));
    report.table(&format!(
        "Whole calls{}: {calls} at a time, {} s with a greeting of {} s, {rate:.1} set up each second",
        if is_secured { " over DTLS-SRTP" } else { "" },
        arguments.call_seconds, arguments.greeting_seconds
    ));
    let window = Window::measure(arguments, &server, &mut fleet)?;
    finish(arguments, server, &mut fleet, &window, report)
}

/// The same packets and file appends as in the other phases, with nothing else around them.
pub fn bare(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let frames = |seconds: f64| (seconds * FRAMES) as u32;
    let forever = frames(36_000.0);
    let plans = [
        (Figure::Greeting, "greeting", forever, forever),
        (Figure::Recording, "recording", 0, forever),
        (
            Figure::Whole,
            "whole calls with their files, without SIP",
            frames(arguments.greeting_seconds),
            frames(arguments.call_seconds),
        ),
    ];
    for (figure, name, greeting, whole) in plans {
        report.table(&format!(
            "Bare kernel loop: {} calls, {name}",
            arguments.calls
        ));
        let voice = Voice::new();
        let script = Script {
            quiet: 0,
            talk: usize::MAX,
        };
        // Nobody listens at the address of signalling: nothing is sent there.
        let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
        let mut fleet = Fleet::new(nowhere, &voice, script, 0, false)?;
        let setup = BareSetup {
            data_parent: &arguments.data(),
            server_core: arguments.server_core,
            load_core: arguments.load_core,
            calls: arguments.calls,
            callers_port: fleet.media_port(),
            greeting,
            whole,
        };
        let server = BareServer::start(&setup)?;
        fleet.crew.put_up(arguments.calls, server.media);
        fleet.run_for(2 * SECOND);
        let (cpu, began) = (server.cpu()?, now());
        fleet.run_for(seconds(f64::from(arguments.seconds)));
        let time = (now() - began) as f64 / SECOND as f64;
        let cpu = server.cpu()?.since(cpu);
        let each = report.cpu(cpu, f64::from(arguments.calls), time);
        report.note_bare(figure, format_args!("{each:.3}"));
        let tally = &fleet.crew.tally;
        report.row(
            "packets sent to it, heard from it",
            format_args!("{}, {}", tally.packets_sent, tally.packets_heard),
        );
    }
    Ok(())
}

/// How calls were held.
struct Held {
    /// Milliseconds for each second of each call.
    cpu: f64,
    /// KiB for each call.
    memory: f64,
    setup: Option<Times>,
    first_media: Option<Times>,
    lateness: Option<Times>,
    /// No call failed, no packet was lost, no recording was damaged.
    is_good: bool,
}

/// What was seen of the server while all calls were up.
struct Window {
    seconds: f64,
    calls: f64,
    cpu: Cpu,
    memory_kib: u64,
    threads: BTreeMap<String, Cpu>,
    before: Metrics,
}

impl Window {
    fn measure(
        arguments: &Arguments,
        server: &Server,
        fleet: &mut Fleet<'_>,
    ) -> anyhow::Result<Self> {
        let before = server.metrics()?;
        let threads = server.cpu_of_threads()?;
        let (cpu, began) = (server.cpu()?, now());
        fleet.crew.listening = true;
        let (mut ups, mut looks) = (0, 0);
        fleet.run_until(seconds(f64::from(arguments.seconds)), |crew| {
            ups += crew.up();
            looks += 1;
            false
        });
        fleet.crew.listening = false;
        let cpu = server.cpu()?.since(cpu);
        let seconds = (now() - began) as f64 / SECOND as f64;
        let mut used = server.cpu_of_threads()?;
        for (name, cpu) in &mut used {
            *cpu = cpu.since(threads.get(name).copied().unwrap_or_default());
        }
        Ok(Self {
            seconds,
            calls: ups as f64 / f64::from(looks),
            cpu,
            memory_kib: server.memory_kib()?,
            threads: used,
            before,
        })
    }
}

/// Lets the calls end, waits for their messages, and judges everything.
fn finish(
    arguments: &Arguments,
    server: Server,
    fleet: &mut Fleet<'_>,
    window: &Window,
    report: &mut Report,
) -> anyhow::Result<Held> {
    let failures = report.failures();
    let longest = seconds(arguments.call_seconds.max(ramp_seconds(arguments) + 40.0) + 40.0);
    let is_over = |crew: &Crew<'_>| crew.live() == 0 && crew.to_come() == 0;
    let over = fleet.run_until(longest, is_over);
    let stored = server.wait_until(PATIENCE, |metrics| {
        metrics.sum("aftertone_calls", "") == 0.0
    })?;
    std::thread::sleep(PUBLISHED);
    let after = server.metrics()?;
    let cpu = report.cpu(window.cpu, window.calls, window.seconds);
    if arguments.threads {
        for (name, cpu) in window.threads.iter().filter(|(_, cpu)| cpu.total() > 0.0) {
            let share = cpu.total() / window.seconds / 10.0;
            report.row(
                &format!("thread {name}"),
                format_args!("{share:.1} % ({:.0} + {:.0} ms)", cpu.user, cpu.system),
            );
        }
    }
    let memory = report.memory(server.idle_kib(), window.memory_kib, window.calls as usize);
    report.tally(&fleet.crew.tally);
    report.times(
        "200 to keys, p50 / p99 / max",
        fleet.crew.keyed().unwrap_or_default(),
    );
    let lateness = fleet.crew.lateness();
    report.media(&fleet.crew.tally, &lateness, &window.before, &after);
    report.check("all calls over and stored", over && stored, over && stored);
    for (series, value) in after.all("aftertone_calls_total") {
        report.row(series, value);
    }
    let said: Vec<_> = fleet.crew.said();
    if !said.is_empty() {
        let voice = Voice::new();
        report.verdict(&voice.judge(&server.recordings(), &said)?);
    }
    server.stop(arguments.keep)?;
    Ok(Held {
        cpu,
        memory,
        setup: Times::of(&fleet.crew.tally.setup),
        first_media: Times::of(&fleet.crew.tally.first_media),
        lateness: Times::of(&lateness),
        is_good: report.failures() == failures,
    })
}

fn start(arguments: &Arguments, greeting_seconds: f64) -> anyhow::Result<Server> {
    Server::start(&Setup {
        binary: &arguments.binary()?,
        data_parent: &arguments.data(),
        server_core: arguments.server_core,
        load_core: arguments.load_core,
        media_workers: arguments.media_workers,
        greeting_seconds,
    })
}
