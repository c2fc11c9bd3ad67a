//! `aftertone subscribers`: provisioning without the web flow.

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use aftertone::clock::{Clock, SystemClock};
use aftertone::config::Config;
use aftertone::domain::choice;
use aftertone::domain::{Departure, DepartureCause, InvalidMsisdn, Msisdn, Private, Subscriber};
use aftertone::storage::{Added, NewSubscriber, Storage};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};

/// Added in one transaction: a running service waits for its turn at the database no longer.
const BATCH: usize = 5_000;
/// Read from the database at once.
const PAGE: u32 = 1_000;
/// Bad lines that are shown one by one.
const BAD_LINES_SHOWN: usize = 20;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Adds one subscriber, or all numbers of a file
    #[command(after_help = "Examples:
  aftertone subscribers add +4799990001
  aftertone subscribers add +4799990001 --name \"Kari Nordmann\" --tz Europe/Oslo
  aftertone subscribers add --from-file numbers.txt
  cut -d, -f1 customers.csv | aftertone subscribers add --from-file -

A file holds one number a line; empty lines and what follows a # are skipped. Numbers that are
there already are left as they are, so that a file can be given again.")]
    Add(Add),
    /// Lists the subscribers in the order of their numbers
    #[command(after_help = "Examples:
  aftertone subscribers list
  aftertone subscribers list --json | jq -r '.[].number'")]
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Removes a subscriber with all messages and tokens
    #[command(after_help = "Examples:
  aftertone subscribers remove +4799990001
  aftertone subscribers remove +4799990001 --now

He takes no calls, and is signed out, at once. His data are erased after enrolment.erase_after_hours
(0 unless set); until then he has them back by signing in again. The running service deletes his
registration at the core, revokes his tokens, and erases the recordings from the disk within a minute.")]
    Remove {
        /// The number
        #[arg(value_parser = crate::commands::number)]
        number: Msisdn,
        /// Erases the data at once, also of one who has left already
        #[arg(long)]
        now: bool,
    },
}

#[derive(Args)]
pub(crate) struct Add {
    /// The number in international form: +4799990001
    #[arg(required_unless_present = "from_file", value_parser = crate::commands::number)]
    number: Option<Msisdn>,
    /// A file with one number a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "number")]
    from_file: Option<PathBuf>,
    /// Adds the readable numbers of a file that has unreadable ones too
    #[arg(long, requires = "from_file")]
    skip_bad: bool,
    /// A name to show
    #[arg(long, conflicts_with = "from_file", value_parser = choice::name)]
    name: Option<String>,
    /// Time zone, by its IANA name
    #[arg(long = "tz", value_name = "ZONE", default_value = "Etc/UTC", value_parser = choice::time_zone)]
    time_zone: String,
    /// Language of the prompts [default: the setting greeting.language]
    #[arg(long, value_name = "TAG", value_parser = choice::language)]
    language: Option<String>,
}

impl Add {
    fn subscriber(&self, number: Msisdn, config: &Config) -> NewSubscriber {
        let language = self.language.as_ref().unwrap_or(&config.greeting.language);
        NewSubscriber {
            number,
            name: self.name.clone().map(Private),
            time_zone: self.time_zone.clone(),
            language: language.clone(),
        }
    }
}

pub(crate) async fn run(
    command: Command,
    config: &Config,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    // A bad file is told before the database is touched.
    let wanted = match &command {
        Command::Add(add) => wanted(add, config)?,
        Command::List { .. } | Command::Remove { .. } => Vec::new(),
    };
    let storage = crate::commands::open_storage(config).await?;
    let done = match &command {
        Command::Add(_) => add(&storage, &wanted, out).await,
        Command::List { json } => list(&storage, *json, out).await,
        Command::Remove { number, now } => remove(&storage, config, number, *now, out).await,
    };
    storage.close().await;
    done
}

/// Who is to be added.
fn wanted(add: &Add, config: &Config) -> anyhow::Result<Vec<NewSubscriber>> {
    let numbers = match (&add.number, &add.from_file) {
        (Some(number), _) => vec![number.clone()],
        (None, Some(path)) => numbers_of_file(path, add.skip_bad)?,
        (None, None) => bail!("there is nobody to add; give a number, or --from-file FILE"),
    };
    Ok(numbers
        .into_iter()
        .map(|number| add.subscriber(number, config))
        .collect())
}

fn numbers_of_file(path: &Path, skip_bad: bool) -> anyhow::Result<Vec<Msisdn>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("\"{}\" cannot be read", path.display()))?;
    let lines = read_numbers(&text);
    if !lines.bad.is_empty() {
        let shown = describe_bad_lines(path, &lines.bad);
        if !skip_bad {
            bail!("{shown}Nobody was added; mend the file, or add the others with --skip-bad");
        }
        crate::commands::say(shown);
    }
    Ok(lines.numbers)
}

/// The lines of a file of numbers.
#[derive(Default)]
struct Lines<'a> {
    numbers: Vec<Msisdn>,
    /// Line number, counted from one, and what stands there.
    bad: Vec<(usize, &'a str, InvalidMsisdn)>,
}

fn read_numbers(text: &str) -> Lines<'_> {
    let mut lines = Lines::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        match Msisdn::parse(entry) {
            Ok(number) => lines.numbers.push(number),
            Err(error) => lines.bad.push((index + 1, entry, error)),
        }
    }
    lines
}

fn describe_bad_lines(path: &Path, bad: &[(usize, &str, InvalidMsisdn)]) -> String {
    let mut text = String::new();
    for (line, entry, error) in bad.iter().take(BAD_LINES_SHOWN) {
        let entry: String = entry.chars().take(40).collect();
        writeln!(
            text,
            "{} line {line}: \"{entry}\" is {error}",
            path.display()
        )
        .expect("writing to a String cannot fail");
    }
    if let Some(more) = bad
        .len()
        .checked_sub(BAD_LINES_SHOWN)
        .filter(|more| *more > 0)
    {
        writeln!(text, "… and {more} more").expect("writing to a String cannot fail");
    }
    text
}

async fn add(
    storage: &dyn Storage,
    wanted: &[NewSubscriber],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let shows_progress = wanted.len() > BATCH && std::io::stderr().is_terminal();
    let mut sum = Added::default();
    let mut seen = 0;
    for batch in wanted.chunks(BATCH) {
        let added = storage
            .add_subscribers(batch, SystemClock.now())
            .await
            .with_context(|| {
                format!(
                    "{seen} of {} numbers are done; the same command does the rest",
                    wanted.len()
                )
            })?;
        sum.added += added.added;
        sum.already_there += added.already_there;
        seen += batch.len();
        if shows_progress {
            crate::commands::say(format_args!("\r{seen} of {}", wanted.len()));
        }
    }
    if shows_progress {
        crate::commands::say("\n");
    }
    let people = if sum.added == 1 {
        "subscriber"
    } else {
        "subscribers"
    };
    write!(out, "Added {} {people}", sum.added)?;
    if sum.already_there > 0 {
        write!(out, "; {} there already", sum.already_there)?;
    }
    writeln!(out)?;
    Ok(())
}

async fn list(storage: &dyn Storage, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(out);
    let mut after: Option<Msisdn> = None;
    let mut first = true;
    if json {
        write!(out, "[")?;
    }
    loop {
        let page = storage.subscribers(after.as_ref(), PAGE).await?;
        for subscriber in &page {
            if json {
                let comma = if first { "" } else { "," };
                write!(out, "{comma}\n{}", as_json(subscriber))?;
            } else {
                writeln!(out, "{}", as_line(subscriber))?;
            }
            first = false;
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(last.number.clone()),
            _ => break,
        }
    }
    if json {
        writeln!(out, "{}]", if first { "" } else { "\n" })?;
    }
    out.flush()?;
    Ok(())
}

fn as_json(subscriber: &Subscriber) -> serde_json::Value {
    serde_json::json!({
        "number": subscriber.number.e164(),
        "name": subscriber.name.as_ref().map(|name| name.0.as_str()),
        "time_zone": subscriber.time_zone,
        "language": subscriber.language,
        "created_at": subscriber.created_at.to_string(),
    })
}

fn as_line(subscriber: &Subscriber) -> String {
    let name = subscriber.name.as_ref().map_or("", |name| name.0.as_str());
    let line = format!(
        "{:<16} {:<20} {:<3} {name}",
        subscriber.number.e164(),
        subscriber.time_zone,
        subscriber.language
    );
    line.trim_end().to_owned()
}

async fn remove(
    storage: &dyn Storage,
    config: &Config,
    number: &Msisdn,
    at_once: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    const CAUSE: DepartureCause = DepartureCause::Operator;
    let now = SystemClock.now();
    let erase_at = match at_once {
        true => now,
        false => config.enrolment.erase_at(CAUSE, now),
    };
    if let Some(subscriber) = storage.subscriber_by_number(number).await?
        && let Some(departure) = storage.depart(subscriber.id, CAUSE, erase_at, now).await?
    {
        return Ok(writeln!(out, "{}", describe_removal(&departure))?);
    }
    let left = storage.departures_of(number).await?;
    let kept: Vec<_> = left.iter().filter(|left| left.erase_at.is_some()).collect();
    let number = number.e164();
    if at_once && !kept.is_empty() {
        for departure in kept {
            storage
                .depart(departure.subscriber, CAUSE, now, now)
                .await?;
        }
        writeln!(out, "Erased what was left of {number}")?;
        return Ok(());
    }
    if let Some(erase_at) = kept.iter().find_map(|departure| departure.erase_at) {
        bail!("{number} has left already; the data are erased at {erase_at}, or now with --now");
    }
    bail!("{number} is no subscriber; `aftertone subscribers list` shows who is");
}

fn describe_removal(departure: &Departure) -> String {
    let mut text = format!("Removed {}", departure.number.e164());
    if let Some(erase_at) = departure.erase_at {
        write!(text, "; the data are erased at {erase_at}")
            .expect("writing to a String cannot fail");
    }
    if departure.next_attempt_at.is_some() {
        text.push_str("; the running service tells the core and the identity server");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_have_comments_empty_lines_separators_and_foreign_line_ends() {
        let text =
            "\u{feff}# customers\r\n\r\n+47 99 99 00 01\r\n  +4799990002  # Kari\n+1-555-010-9999";
        let lines = read_numbers(text);
        let numbers: Vec<_> = lines.numbers.iter().map(Msisdn::e164).collect();
        assert_eq!(numbers, ["+4799990001", "+4799990002", "+15550109999"]);
        assert_eq!(lines.bad.len(), 0);
    }

    #[test]
    fn bad_lines_are_told_with_their_number_and_not_without_end() {
        let text = format!("+4799990001\n99990002\n{}", "x\n".repeat(30));
        let lines = read_numbers(&text);
        assert_eq!(lines.numbers.len(), 1);
        let shown = describe_bad_lines(Path::new("n.txt"), &lines.bad);
        assert!(
            shown.starts_with("n.txt line 2: \"99990002\" is not a telephone number"),
            "{shown}"
        );
        assert_eq!(shown.lines().count(), BAD_LINES_SHOWN + 1);
        assert!(shown.ends_with("… and 11 more\n"), "{shown}");
    }
}
