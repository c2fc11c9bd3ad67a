//! The server under load: the real program as a child process on a core of its own, with a folder of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::wire::run_on;

/// Mailboxes that the calls are shared out among.
pub const MAILBOXES: u32 = 1000;
/// How long the admin listener may take, also of a server that has more to do than it can.
const PATIENCE: Duration = Duration::from_secs(20);
/// The unit of CPU time under /proc.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a server is started with.
pub struct Setup<'a> {
    pub binary: &'a Path,
    pub data_parent: &'a Path,
    pub server_core: usize,
    pub load_core: usize,
    pub media_workers: usize,
    pub greeting_seconds: f64,
}

pub struct Server {
    child: Child,
    folder: Folder,
    pub sip: SocketAddrV4,
    admin: SocketAddr,
    idle_kib: u64,
}

/// CPU time, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }
}

impl Server {
    /// Starts it and waits until it takes calls.
    pub fn start(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let folder = Folder::new(setup.data_parent)?;
        let dir = &folder.0;
        let config = dir.join("aftertone.toml");
        write_greeting(&dir.join("greeting.wav"), setup.greeting_seconds)?;
        fs::write(&config, configuration(dir, setup.media_workers))?;
        add_subscribers(setup.binary, dir, &config)?;

        // A child runs where its parent did when it was started.
        run_on(setup.server_core).context("the server's core cannot be had")?;
        let child = Command::new(setup.binary)
            .args(["serve", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("server.log"))?)
            .spawn()
            .with_context(|| format!("{} cannot be started", setup.binary.display()));
        run_on(setup.load_core).context("the load's core cannot be had")?;
        let mut child = child?;
        let (sip, admin) = match read_addresses(&mut child) {
            Ok(addresses) => addresses,
            Err(error) => {
                let log = fs::read_to_string(dir.join("server.log")).unwrap_or_default();
                child.kill().ok();
                return Err(error.context(log));
            }
        };
        let mut server = Self {
            child,
            folder,
            sip,
            admin,
            idle_kib: 0,
        };
        std::thread::sleep(Duration::from_secs(1));
        server.idle_kib = server.memory_kib()?;
        Ok(server)
    }

    pub fn recordings(&self) -> PathBuf {
        self.folder.0.join("data/recordings")
    }

    /// Resident memory before the first call, in KiB.
    pub fn idle_kib(&self) -> u64 {
        self.idle_kib
    }

    /// Resident memory now, in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.context("the system does not tell the memory of a process")
    }

    /// CPU time of the process up to now.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        cpu_of(&self.child)
    }

    /// CPU time up to now of the threads that there are, by name.
    pub fn cpu_of_threads(&self) -> anyhow::Result<BTreeMap<String, Cpu>> {
        let mut threads: BTreeMap<String, Cpu> = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may have ended meanwhile.
            let Ok((name, cpu)) = read_cpu(&entry?.path().join("stat")) else {
                continue;
            };
            let sum = threads.entry(name).or_default();
            sum.user += cpu.user;
            sum.system += cpu.system;
        }
        Ok(threads)
    }

    /// What the server tells of itself.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .context("the server's metrics do not come")?;
        let series = text.lines().filter(|line| line.starts_with("aftertone_"));
        let value = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(Metrics(series.filter_map(value).collect()))
    }

    /// Asks for the metrics until they are as wanted: false if that does not come within `patience`.
    pub fn wait_until(
        &self,
        patience: Duration,
        wanted: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<bool> {
        const PAUSE: Duration = Duration::from_millis(200);
        for _ in 0..patience.as_millis() / PAUSE.as_millis() {
            if wanted(&self.metrics()?) {
                return Ok(true);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(false)
    }

    /// Stops it in order, and keeps its folder if asked to.
    pub fn stop(mut self, keep: bool) -> anyhow::Result<()> {
        if let Some(process) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        }
        let status = self.child.wait()?;
        if keep {
            println!("The server's folder is {}", self.folder.0.display());
        } else {
            self.folder.empty();
        }
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

/// What the bare loop is started with.
pub struct BareSetup<'a> {
    pub data_parent: &'a Path,
    pub server_core: usize,
    pub load_core: usize,
    pub calls: u32,
    pub callers_port: u16,
    /// In frames.
    pub greeting: u32,
    pub whole: u32,
}

/// The bare loop: this program again, in the place of the server.
pub struct BareServer {
    child: Child,
    folder: Folder,
    pub media: SocketAddrV4,
}

impl BareServer {
    /// Starts it and waits until it receives.
    pub fn start(setup: &BareSetup<'_>) -> anyhow::Result<Self> {
        let folder = Folder::new(setup.data_parent)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").arg("--dir").arg(&folder.0);
        for (name, value) in [
            ("--calls", setup.calls),
            ("--callers-port", setup.callers_port.into()),
            ("--greeting", setup.greeting),
            ("--whole", setup.whole),
        ] {
            command.arg(name).arg(value.to_string());
        }
        run_on(setup.server_core).context("the server's core cannot be had")?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        run_on(setup.load_core).context("the load's core cannot be had")?;
        let mut child = child?;
        let output = child.stdout.take().context("the loop has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let media = line
            .trim()
            .rsplit('/')
            .next()
            .and_then(|it| it.parse().ok());
        let media = media.context("the loop ended before it was ready")?;
        Ok(Self {
            child,
            folder,
            media,
        })
    }

    /// CPU time up to now.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        cpu_of(&self.child)
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        self.folder.empty();
    }
}

/// Where a process under load has its files. They are emptied when it has ended, but deleted with all others when the
/// program ends: for minutes a file system passes over what has just been deleted whenever it makes a file, and that
/// is not to be measured.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(parent).context("no folder can be made")?;
        Ok(Self(folder.keep()))
    }

    fn empty(&self) {
        empty(&self.0).unwrap_or_else(|error| {
            eprintln!("{} cannot be emptied: {error}", self.0.display());
        });
    }
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            File::create(entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, unless the measurement failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The server's own numbers at one moment.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// The sum of all series of this name whose labels hold `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let is_it = |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
            })
        };
        self.0
            .iter()
            .filter(|(series, _)| is_it(series))
            .map(|(_, value)| value)
            .sum()
    }

    /// All series of this name that are not zero.
    pub fn all(&self, name: &str) -> Vec<(&str, f64)> {
        let series = self
            .0
            .iter()
            .filter(|(series, value)| series.starts_with(name) && **value != 0.0);
        series
            .map(|(series, value)| (series.as_str(), *value))
            .collect()
    }
}

fn configuration(dir: &Path, media_workers: usize) -> String {
    let dir = dir.display();
    format!(
        r#"data_dir = "{dir}/data"
[sip]
listen = ["udp://127.0.0.1:0"]
max_calls = 30000
[media]
listen = "127.0.0.1:0"
workers = {media_workers}
[recording]
max_seconds = 3600
max_messages = 1000000
max_bytes = 1000000000000
[greeting]
file = "{dir}/greeting.wav"
[http]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"#
    )
}

fn write_greeting(path: &Path, seconds: f64) -> anyhow::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec)?;
    for n in 0..(seconds * 8000.0) as u32 {
        let angle = f64::from(n % 8000) * std::f64::consts::TAU * 440.0 / 8000.0;
        wav.write_sample((angle.sin() * 8000.0) as i16)?;
    }
    wav.finalize()?;
    Ok(())
}

/// The number of a mailbox.
pub fn mailbox(number: u32) -> String {
    format!("+4799{:06}", number % MAILBOXES)
}

fn add_subscribers(binary: &Path, dir: &Path, config: &Path) -> anyhow::Result<()> {
    let numbers = dir.join("numbers.txt");
    let text: String = (0..MAILBOXES)
        .map(|number| mailbox(number) + "\n")
        .collect();
    fs::write(&numbers, text)?;
    let output = Command::new(binary)
        .args(["subscribers", "add", "--from-file"])
        .arg(&numbers)
        .arg("--config")
        .arg(config)
        .output()
        .with_context(|| format!("{} cannot be started", binary.display()))?;
    if !output.status.success() {
        bail!(
            "no subscribers: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Reads where the server listens from what it says when it is ready.
fn read_addresses(child: &mut Child) -> anyhow::Result<(SocketAddrV4, SocketAddr)> {
    let output = child.stdout.take().context("the server has no output")?;
    let (mut sip, mut admin) = (None, None);
    for line in BufReader::new(output).lines() {
        let line = line?;
        let address = line
            .split("://")
            .nth(1)
            .map(|rest| rest.split('/').next().unwrap_or(rest));
        match (line.split_whitespace().next(), address) {
            (Some("sip"), Some(address)) => sip = address.parse().ok(),
            (Some("admin"), Some(address)) => admin = address.parse().ok(),
            _ => {}
        }
        if let (Some(sip), Some(admin)) = (sip, admin) {
            return Ok((sip, admin));
        }
    }
    bail!("the server ended before it was ready")
}

/// CPU time of a process up to now.
pub fn cpu_of(child: &Child) -> anyhow::Result<Cpu> {
    read_cpu(&PathBuf::from(format!("/proc/{}/stat", child.id()))).map(|(_, cpu)| cpu)
}

/// Name and CPU time of a process or thread, from its `stat` file.
fn read_cpu(path: &Path) -> anyhow::Result<(String, Cpu)> {
    let stat = fs::read_to_string(path)?;
    let read = || {
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let mut fields = after.split_whitespace().skip(11);
        let mut ms = || Some(fields.next()?.parse::<f64>().ok()? * 1000.0 / TICKS_PER_SECOND);
        Some((
            name,
            Cpu {
                user: ms()?,
                system: ms()?,
            },
        ))
    };
    read().with_context(|| format!("{} is not as expected", path.display()))
}
