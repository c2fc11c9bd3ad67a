//! `aftertone tokens`: the keys of programs that read a mailbox.

use std::io::Write;

use aftertone::clock::{Clock, SystemClock};
use aftertone::config::Config;
use aftertone::domain::choice;
use aftertone::domain::{ApiToken, Msisdn, Timestamp, TokenId, UnknownId};
use aftertone::http::secret;
use aftertone::storage::{NewToken, Storage};
use anyhow::bail;
use clap::Subcommand;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes a token and prints it, alone and only this once
    #[command(after_help = "Examples:
  aftertone tokens create +4799990001
  TOKEN=$(aftertone tokens create +4799990001 --name backup --days 90)
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:8080/api/v1/messages")]
    Create {
        /// Whose mailbox it opens
        #[arg(value_parser = crate::commands::number)]
        number: Msisdn,
        /// What it is for
        #[arg(long, default_value = "command line", value_parser = choice::name)]
        name: String,
        /// Days until it ends [default: never]
        #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// Lists the tokens of a subscriber, without their secrets
    #[command(after_help = "Examples:
  aftertone tokens list +4799990001
  aftertone tokens list +4799990001 --json")]
    List {
        /// Whose
        #[arg(value_parser = crate::commands::number)]
        number: Msisdn,
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Ends a token at once
    #[command(after_help = "Examples:
  aftertone tokens revoke 018f3c1a2b7e7c3d9f00112233445566")]
    Revoke {
        /// The id, as `aftertone tokens list` shows it
        #[arg(value_parser = token_id)]
        id: TokenId,
    },
}

pub(crate) async fn run(
    command: Command,
    config: &Config,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let storage = crate::commands::open_storage(config).await?;
    let done = match command {
        Command::Create { number, name, days } => create(&storage, &number, name, days, out).await,
        Command::List { number, json } => list(&storage, &number, json, out).await,
        Command::Revoke { id } => revoke(&storage, id).await,
    };
    storage.close().await;
    done
}

async fn create(
    storage: &dyn Storage,
    number: &Msisdn,
    name: String,
    days: Option<u32>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let subscriber = crate::commands::subscriber_of(storage, number).await?;
    let now = SystemClock.now();
    let secret = secret::new_secret(crate::commands::random()?);
    let token = NewToken {
        id: TokenId::new(now, crate::commands::random()?),
        subscriber: subscriber.id,
        name,
        hash: secret::hash_secret(&secret),
        created_at: now,
        expires_at: days.map(|days| now.plus_millis(i64::from(days) * DAY_MS)),
    };
    storage.add_token(&token).await?;
    writeln!(out, "{secret}")?;
    Ok(())
}

async fn list(
    storage: &dyn Storage,
    number: &Msisdn,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let subscriber = crate::commands::subscriber_of(storage, number).await?;
    let tokens = storage.tokens(subscriber.id).await?;
    if json {
        let tokens: Vec<_> = tokens.iter().map(as_json).collect();
        writeln!(out, "{:#}", serde_json::Value::from(tokens))?;
        return Ok(());
    }
    for token in &tokens {
        writeln!(out, "{}", as_line(token, SystemClock.now()))?;
    }
    Ok(())
}

fn as_json(token: &ApiToken) -> serde_json::Value {
    serde_json::json!({
        "id": token.id.to_string(),
        "name": token.name,
        "created_at": token.created_at.to_string(),
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "last_used_at": token.last_used_at.map(|at| at.to_string()),
    })
}

fn as_line(token: &ApiToken, now: Timestamp) -> String {
    let day = |at: Timestamp| at.to_string().chars().take(10).collect::<String>();
    let ends = match token.expires_at {
        None => "never ends".to_owned(),
        Some(at) if at <= now => format!("ended {}", day(at)),
        Some(at) => format!("ends {}", day(at)),
    };
    let used = token
        .last_used_at
        .map_or("never used".to_owned(), |at| format!("used {}", day(at)));
    format!(
        "{}  made {}  {ends:<16}  {used:<15}  {}",
        token.id,
        day(token.created_at),
        token.name
    )
}

async fn revoke(storage: &dyn Storage, id: TokenId) -> anyhow::Result<()> {
    if !storage.revoke_token(id, None).await? {
        bail!(
            "there is no token {id}; `aftertone tokens list NUMBER` shows the tokens of a number"
        );
    }
    Ok(())
}

fn token_id(text: &str) -> Result<TokenId, UnknownId> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aftertone::domain::SubscriberId;

    #[test]
    fn a_line_says_when_a_token_ends_or_ended() {
        let day = |days: i64| Timestamp::from_millis(days * DAY_MS);
        let mut token = ApiToken {
            id: TokenId::new(day(0), [7; 10]),
            subscriber: SubscriberId::new(day(0), [1; 10]),
            name: "backup".into(),
            created_at: day(1),
            expires_at: Some(day(10)),
            last_used_at: None,
        };
        assert!(as_line(&token, day(9)).contains("ends 1970-01-11"));
        assert!(as_line(&token, day(10)).contains("ended 1970-01-11"));
        token.expires_at = None;
        token.last_used_at = Some(day(3));
        let line = as_line(&token, day(10));
        assert!(
            line.contains("never ends") && line.contains("used 1970-01-04"),
            "{line}"
        );
    }
}
