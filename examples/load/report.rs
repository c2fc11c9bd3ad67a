//! What is printed: a table for each phase, and whether all went well.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use crate::clock::{MILLI, Nanos};
use crate::fleet::Tally;
use crate::server::{Cpu, Metrics};
use crate::voice::Verdict;

/// The machine that the figures are of.
pub struct Machine {
    model: String,
    cores: usize,
    kernel: String,
}

impl Machine {
    pub fn here() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models = cpus
            .lines()
            .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            model: models.clone().next().unwrap_or("unknown CPU").to_owned(),
            cores: models.count(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            cores,
            kernel,
        } = self;
        write!(f, "{model}, {cores} cores, Linux {kernel}")
    }
}

/// A figure of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    Greeting,
    Recording,
    Whole,
    WholeSecured,
    Most,
    Memory,
    SetUps,
    Answer,
    FirstMedia,
}

/// The rows of the summary: the figure, what it is, the same of Asterisk 22.10 (one thread a call, measured on the
/// same kind of machine), and what we want of ourselves.
const SUMMARY: [(Figure, &str, &str, &str); 9] = [
    (
        Figure::Greeting,
        "CPU-ms per call-second, greeting",
        "2.09",
        "0.20",
    ),
    (
        Figure::Recording,
        "CPU-ms per call-second, recording",
        "1.02",
        "0.10",
    ),
    (
        Figure::Whole,
        "the same of a whole call, SIP and files included",
        "1.33",
        "0.13",
    ),
    (Figure::WholeSecured, "the same over DTLS-SRTP", "", "0.20"),
    (
        Figure::Most,
        "most calls at once, nothing failed or lost, jitter p99 < 5 ms, INVITE to 200 p99 < 50 ms",
        "700",
        "5,000",
    ),
    (Figure::Memory, "memory per call", "226 KiB", "20 KiB"),
    (
        Figure::SetUps,
        "set-ups per second without a retransmission, each stored",
        "350",
        "1,000",
    ),
    (
        Figure::Answer,
        "INVITE to 200 at 200 calls, p50 / p99",
        "p99 3.0 ms",
        "p99 2 ms",
    ),
    (
        Figure::FirstMedia,
        "200 to first RTP at 200 calls, p50 / p99",
        "p50 11 ms",
        "p50 5 ms",
    ),
];

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Times {
    /// None of nothing.
    pub fn of(times: &[Nanos]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = (sorted.len().checked_sub(1)? as f64 * share) as usize;
            Some(*sorted.get(index)? as f64 / MILLI as f64)
        };
        Some(Self {
            p50: at(0.5)?,
            p99: at(0.99)?,
            max: at(1.0)?,
        })
    }
}

/// What was measured.
#[derive(Default)]
pub struct Report {
    failures: usize,
    bare: BTreeMap<Figure, String>,
    measured: BTreeMap<Figure, String>,
}

impl Report {
    /// Begins the table of a phase.
    pub fn table(&mut self, title: &str) {
        println!("\n### {title}\n\n| | |\n| --- | --- |");
    }

    pub fn row(&mut self, name: &str, value: impl fmt::Display) {
        println!("| {name} | {value} |");
    }

    /// A figure for the summary.
    pub fn note(&mut self, figure: Figure, value: impl fmt::Display) {
        self.measured.insert(figure, value.to_string());
    }

    /// The same of the bare loop.
    pub fn note_bare(&mut self, figure: Figure, value: impl fmt::Display) {
        self.bare.insert(figure, value.to_string());
    }

    /// Everything that was noted, beside what it is measured by.
    pub fn summary(&self) {
        println!("\n### Summary\n");
        println!(
            "| one core, server side only | Asterisk 22.10 | bare kernel loop | target | measured |"
        );
        println!("| --- | --- | --- | --- | --- |");
        for (figure, name, asterisk, target) in SUMMARY {
            let of =
                |side: &BTreeMap<Figure, String>| side.get(&figure).cloned().unwrap_or_default();
            let (bare, measured) = (of(&self.bare), of(&self.measured));
            println!("| {name} | {asterisk} | {bare} | {target} | {measured} |");
        }
    }

    /// A row that must be as it is wanted.
    pub fn check(&mut self, name: &str, good: bool, value: impl fmt::Display) {
        let mark = if good { "" } else { " **failed**" };
        self.failures += usize::from(!good);
        self.row(name, format_args!("{value}{mark}"));
    }

    /// Times as percentiles, in milliseconds.
    pub fn times(&mut self, name: &str, times: &[Nanos]) {
        if let Some(Times { p50, p99, max }) = Times::of(times) {
            self.row(name, format_args!("{p50:.2} / {p99:.2} / {max:.2} ms"));
        }
    }

    /// CPU time of the server for each second of each call, which it tells in milliseconds.
    pub fn cpu(&mut self, cpu: Cpu, calls: f64, seconds: f64) -> f64 {
        let call_seconds = calls * seconds;
        let (user, system) = (cpu.user / call_seconds, cpu.system / call_seconds);
        self.row(
            "CPU ms per call-second (user + system)",
            format_args!("{:.4} ({user:.4} + {system:.4})", user + system),
        );
        self.row(
            "server's core in use",
            format_args!("{:.1} %", cpu.total() / seconds / 10.0),
        );
        user + system
    }

    pub fn tally(&mut self, tally: &Tally) {
        self.times("INVITE to 200, p50 / p99 / max", &tally.setup);
        self.times("200 to first RTP, p50 / p99 / max", &tally.first_media);
        let failed = tally.failed();
        self.check(
            "failed calls",
            failed == 0,
            format_args!("{failed} of {} {:?}", tally.placed, tally.failed),
        );
        self.row("requests sent again", tally.resent);
        self.row("200s that came again", tally.answers_again);
    }

    /// Packets both ways, and how late ours were, without which the rest means little.
    pub fn media(&mut self, tally: &Tally, lateness: &[Nanos], before: &Metrics, after: &Metrics) {
        let counted = |name: &str, label: &str| after.sum(name, label) - before.sum(name, label);
        self.times("lateness as heard, p50 / p99 / max", lateness);
        let frames = counted("aftertone_media_frames_total", "");
        let within =
            |label: &str| 100.0 * counted("aftertone_media_frames_total", label) / frames.max(1.0);
        self.row(
            "lateness as the server counts it: up to 1 / 5 / 10 / 20 ms / more",
            format_args!(
                "{:.2} / {:.2} / {:.2} / {:.2} / {:.2} %",
                within("\"1\""),
                within("\"5\""),
                within("\"10\""),
                within("\"20\""),
                within("more")
            ),
        );
        self.times(
            "lateness of the callers' own packets, p50 / p99 / max",
            &tally.own_lateness,
        );
        let lost = tally.packets_lost;
        self.check(
            "packets lost, server to caller",
            lost == 0,
            format_args!("{lost} of {}", tally.packets_heard),
        );
        let taken = after.sum("aftertone_media_packets_total", "taken");
        let sent = tally.packets_sent;
        self.row(
            "packets sent and taken, caller to server",
            format_args!("{sent}, {taken}"),
        );
        self.row(
            "packets that the callers could not send",
            tally.packets_refused,
        );
    }

    /// Tells the KiB of a call.
    pub fn memory(&mut self, idle_kib: u64, full_kib: u64, calls: usize) -> f64 {
        let per_call = full_kib.saturating_sub(idle_kib) as f64 / calls.max(1) as f64;
        self.row(
            "resident memory, idle",
            format_args!("{:.1} MiB", idle_kib as f64 / 1024.0),
        );
        self.row(
            "resident memory, all calls up",
            format_args!("{:.1} MiB", full_kib as f64 / 1024.0),
        );
        self.row("memory per call", format_args!("{per_call:.1} KiB"));
        per_call
    }

    pub fn verdict(&mut self, verdict: &Verdict) {
        let Verdict {
            whole,
            damaged,
            missing,
            samples,
            longest_lead,
        } = verdict;
        let good = damaged.is_empty() && *missing == 0;
        self.check(
            "recordings whole / damaged / missing",
            good,
            format_args!(
                "{whole} / {} / {missing}, {samples} samples right",
                damaged.len()
            ),
        );
        self.row(
            "longest pause before the first word",
            format_args!("{:.2} s", *longest_lead as f64 / 8000.0),
        );
        for line in damaged.iter().take(10) {
            self.row("damaged", line);
        }
    }

    /// Rows that are not as they are wanted.
    pub fn failures(&self) -> usize {
        self.failures
    }
}
