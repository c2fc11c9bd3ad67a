//! The whole story without a person: what a newcomer would do by hand, step by step.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use aftertone::media::audio::{SAMPLE_RATE, read_wav};
use anyhow::{Context, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::commands::demo::browser::{Browser, Page};
use crate::commands::demo::settings::{CALLER, SUBSCRIBER, Settings};

/// A step that takes longer has failed; the longest is a whole call.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what takes its time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a caller leaves lasts at least as long as this.
const SHORTEST_MS: u64 = 1_000;

/// What is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    SignIn,
    Registered,
    Call,
    Message,
    Listen,
    Leave,
    Gone,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::SignIn,
        Self::Registered,
        Self::Call,
        Self::Message,
        Self::Listen,
        Self::Leave,
        Self::Gone,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SignIn => "a subscriber signs in with his number",
            Self::Registered => "his registration is in the core",
            Self::Call => "somebody calls him while he is busy",
            Self::Message => "the message is in his inbox",
            Self::Listen => "it holds what the caller said",
            Self::Leave => "he leaves",
            Self::Gone => "nothing of him is left",
        })
    }
}

/// Tells the story, a line for each step. The status says whether it came to its end.
pub(super) async fn run(settings: &Settings, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut story = Story::new(settings)?;
    for step in Step::ALL {
        let began = Instant::now();
        let told = timeout(PATIENCE, story.tell(step)).await;
        let seconds = began.elapsed().as_secs_f64();
        match told.unwrap_or_else(|_| bail!("it took longer than {} s", PATIENCE.as_secs())) {
            Ok(()) => writeln!(out, "ok    {step}  ({seconds:.1} s)")?,
            Err(error) => {
                writeln!(out, "FAIL  {step}: {error:#}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Story {
    browser: Browser,
    web: String,
    sandbox: String,
    message: Value,
}

impl Story {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            browser: Browser::new()?,
            web: settings.web(),
            sandbox: settings.sandbox_pages(),
            message: Value::Null,
        })
    }

    async fn tell(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::SignIn => self.sign_in().await,
            Step::Registered => self.is_registered().await,
            Step::Call => self.call().await,
            Step::Message => self.message().await,
            Step::Listen => self.listen().await,
            Step::Leave => self.leave().await,
            Step::Gone => self.is_gone().await,
        }
    }

    /// From "Sign in" over number, PIN and consent back to the inbox.
    async fn sign_in(&mut self) -> anyhow::Result<()> {
        let login = self.browser.open(&format!("{}/enrol", self.web)).await?;
        let number = login.form("/oauth2/number")?.with("number", SUBSCRIBER);
        let pin_page = self.browser.send(number).await?;
        let pin = self.newest_pin().await?;
        let pin = pin_page.form("/oauth2/pin")?.with("pin", &pin);
        let consent = self.browser.send(pin).await?;
        let allow = consent.form("/oauth2/consent")?.with("decision", "allow");
        let inbox = self.browser.send(allow).await?;
        ensure_shown(&inbox, &format!("{}/", self.web))
    }

    /// The code in the newest text message of the sandbox's phone.
    async fn newest_pin(&mut self) -> anyhow::Result<String> {
        let sms = format!("{}/sandbox/sms/{SUBSCRIBER}", self.sandbox);
        let sms = self.browser.json(&sms).await?;
        let messages = sms["messages"].as_array();
        let newest = messages.and_then(|all| all.iter().max_by_key(|one| one["at"].as_str()));
        let text = newest.and_then(|one| one["text"].as_str());
        let text = text.context("no text message arrived")?;
        let mut words = text.split(|c: char| !c.is_ascii_digit());
        let pin = words.find(|word| word.len() == 6);
        pin.map(str::to_owned)
            .context("the text message has no code")
    }

    async fn is_registered(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE / 2;
        while !self.core_has_registration().await? {
            ensure!(Instant::now() < until, "the core has no registration");
            sleep(LOOK_EVERY).await;
        }
        let me = self
            .browser
            .json(&format!("{}/api/v1/me", self.web))
            .await?;
        let state = &me["registration"]["state"];
        ensure!(state == "active", "the service says it is {state}");
        Ok(())
    }

    async fn core_has_registration(&mut self) -> anyhow::Result<bool> {
        let url = format!("{}/sandbox/registrations", self.sandbox);
        let found = self.browser.json(&url).await?;
        let registrations = found["registrations"].as_array();
        let registrations = registrations.context("the sandbox lists no registrations")?;
        Ok(registrations.iter().any(|one| one["number"] == SUBSCRIBER))
    }

    async fn call(&mut self) -> anyhow::Result<()> {
        let calls = format!("{}/sandbox/calls", self.sandbox);
        let placed = json!({ "from": CALLER, "to": SUBSCRIBER });
        let call = self.browser.post_json(&calls, &placed).await?;
        let id = call["id"].as_u64().context("the call has no id")?;
        loop {
            let call = self.browser.json(&format!("{calls}/{id}")).await?;
            if !call["ended_at"].is_null() {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn message(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE / 2;
        let list = format!("{}/api/v1/messages", self.web);
        self.message = loop {
            let mut list = self.browser.json(&list).await?;
            if let Some(message) = list["messages"].as_array_mut().and_then(Vec::pop) {
                break message;
            }
            ensure!(Instant::now() < until, "the inbox is empty");
            sleep(LOOK_EVERY).await;
        };
        for (key, wanted) in [("from", CALLER), ("to", SUBSCRIBER), ("reason", "busy")] {
            let found = &self.message[key];
            ensure!(found == wanted, "its {key} is {found} and not {wanted}");
        }
        let inbox = self.browser.open(&format!("{}/", self.web)).await?;
        let id = self.message["id"].as_str().context("it has no id")?;
        ensure!(inbox.body.contains(id), "the page does not show it");
        Ok(())
    }

    async fn listen(&mut self) -> anyhow::Result<()> {
        let id = self.message["id"].as_str().context("it has no id")?;
        let url = format!("{}/api/v1/messages/{id}/audio", self.web);
        let samples = read_wav(&self.browser.bytes(&url).await?)?;
        let ms = samples.len() as u64 * 1000 / u64::from(SAMPLE_RATE);
        let told = self.message["duration_ms"].as_u64().unwrap_or_default();
        ensure!(
            ms.abs_diff(told) <= 1,
            "it lasts {ms} ms, and the list says {told} ms"
        );
        ensure!(ms >= SHORTEST_MS, "it lasts {ms} ms only");
        let loudest = samples.iter().map(|sample| sample.unsigned_abs()).max();
        ensure!(loudest.unwrap_or_default() > 1_000, "it is silent");
        Ok(())
    }

    /// By the page's button, over the operator's page where the consent ends.
    async fn leave(&mut self) -> anyhow::Result<()> {
        let ask = self.browser.open(&format!("{}/leave", self.web)).await?;
        let going = self.browser.send(ask.form("/leave")?).await?;
        let consent = self.browser.open(&going.link("/revoke-consent")?).await?;
        let revoke = consent.form("/revoke-consent")?.with("decision", "revoke");
        let left = self.browser.send(revoke).await?;
        ensure_shown(&left, &format!("{}/left", self.web))
    }

    async fn is_gone(&mut self) -> anyhow::Result<()> {
        let me = self
            .browser
            .open(&format!("{}/api/v1/me", self.web))
            .await?;
        let wanted = StatusCode::UNAUTHORIZED;
        ensure!(
            me.status == wanted,
            "the session goes on: {} and not {wanted}",
            me.status
        );
        let until = Instant::now() + PATIENCE / 2;
        while self.core_has_registration().await? {
            ensure!(
                Instant::now() < until,
                "his registration is still in the core"
            );
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn ensure_shown(page: &Page, wanted: &str) -> anyhow::Result<()> {
    let shown = page
        .url
        .as_str()
        .split(['?', '#'])
        .next()
        .unwrap_or_default();
    let status = page.status;
    ensure!(
        shown == wanted && status.is_success(),
        "{shown} is shown with {status} ({}), and not {wanted}",
        page.title()
    );
    Ok(())
}
