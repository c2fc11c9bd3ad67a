//! What is printed: a table for each phase, and whether all went well.

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

/// What was measured.
#[derive(Default)]
pub struct Report {
    failures: usize,
}

impl Report {
    /// Begins the table of a phase.
    pub fn table(&mut self, title: &str) {
        println!("\n### {title}\n\n| | |\n| --- | --- |");
    }

    pub fn row(&mut self, name: &str, value: impl fmt::Display) {
        println!("| {name} | {value} |");
    }

    /// A row that must be as it is wanted.
    pub fn check(&mut self, name: &str, good: bool, value: impl fmt::Display) {
        let mark = if good { "" } else { " **failed**" };
        self.failures += usize::from(!good);
        self.row(name, format_args!("{value}{mark}"));
    }

    /// Times as percentiles, in milliseconds.
    pub fn times(&mut self, name: &str, times: &[Nanos]) {
        if times.is_empty() {
            return;
        }
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = ((sorted.len() - 1) as f64 * share) as usize;
            sorted[index] as f64 / MILLI as f64
        };
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        self.row(name, format_args!("{p50:.2} / {p99:.2} / {max:.2} ms"));
    }

    /// CPU time of the server for each second of each call.
    pub fn cpu(&mut self, cpu: Cpu, calls: f64, seconds: f64) {
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

    pub fn memory(&mut self, idle_kib: u64, full_kib: u64, calls: usize) {
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

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failures == 0
    }
}
