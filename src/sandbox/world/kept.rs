//! What outlives a restart, where a file is named for it: grants with their refresh tokens,
//! consents, and registrations. Without them a service would meet a core that has forgotten its
//! subscribers, which no real one does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::domain::{Msisdn, Timestamp};
use crate::sandbox::StartError;
use crate::sandbox::world::tokens::Refresh;
use crate::sandbox::world::{Authorization, Registration, Scopes, World};

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// The content of the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) grants: Vec<KeptGrant>,
    pub(crate) refresh_tokens: Vec<KeptRefresh>,
    pub(crate) consents: Vec<KeptConsent>,
    pub(crate) registrations: Vec<KeptRegistration>,
}

/// What a subscriber allowed, as refresh tokens refer to it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptGrant {
    pub(crate) id: u64,
    pub(crate) authorization: Authorization,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptRefresh {
    pub(crate) token: String,
    #[serde(with = "time")]
    pub(crate) until: Timestamp,
    pub(crate) refresh: Refresh,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptConsent {
    pub(crate) client: String,
    #[serde(with = "number")]
    pub(crate) number: Msisdn,
    pub(crate) scopes: Scopes,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptRegistration {
    #[serde(with = "number")]
    pub(crate) number: Msisdn,
    pub(crate) registration: Registration,
}

impl World {
    /// What there is to keep now.
    pub(crate) fn kept(&self) -> Kept {
        let now = self.now();
        let mut kept = Kept {
            consents: self.consents.kept(),
            registrations: self.registrations.kept(now),
            ..Kept::default()
        };
        self.tokens.keep(&mut kept, now);
        kept
    }

    /// Takes in what was kept; numbers that do not exist any more are left out.
    pub(crate) fn restore(&self, kept: Kept) {
        let now = self.now();
        let Kept {
            grants,
            refresh_tokens,
            consents,
            registrations,
        } = kept;
        self.tokens.restore(grants, refresh_tokens, now);
        self.consents.restore(consents);
        for one in registrations {
            if self.numbers.has(&one.number) {
                self.registrations
                    .upsert(&one.number, one.registration, now);
            }
        }
    }

    /// Takes in what the file holds, where there is one.
    pub(crate) fn read_from(&self, file: &Path) -> Result<(), StartError> {
        let failed = |source| {
            StartError::part(
                "its state_file cannot be read; repair or remove it",
                format!("{}: {source}", file.display()),
            )
        };
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let kept = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        self.restore(kept);
        Ok(())
    }
}

/// Writes what there is to keep whenever it has changed, and once more at the end.
pub(crate) async fn keep(world: Arc<World>, file: PathBuf, stop: CancellationToken) {
    let mut changes = world.changes.subscribe();
    let mut written = Vec::new();
    loop {
        let is_end = stop.is_cancelled();
        let text = serde_json::to_vec(&world.kept()).expect("plain values can be written");
        if text != written {
            let (to, bytes) = (file.clone(), text.clone());
            let writing = tokio::task::spawn_blocking(move || write(&to, &bytes)).await;
            match writing.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => written = text,
                Err(error) => {
                    let file = file.display();
                    tracing::warn!(%error, "The sandbox could not keep its state in {file}");
                }
            }
        }
        if is_end {
            return;
        }
        // Either way there is another look.
        stop.run_until_cancelled(async {
            tokio::time::sleep(PAUSE).await;
            drop(changes.changed().await);
        })
        .await;
    }
}

/// Replaces the file in one step. It holds tokens, so that only its owner reads it.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut written: File = options.open(&new)?;
    written.write_all(bytes)?;
    written.sync_data()?;
    fs::rename(&new, file)
}

/// A number as it is written in the file.
pub(crate) mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::domain::Msisdn;

    pub(crate) fn serialize<S: Serializer>(number: &Msisdn, to: S) -> Result<S::Ok, S::Error> {
        number.e164().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Msisdn, D::Error> {
        Msisdn::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A moment as it is written in the file: milliseconds since 1970.
pub(crate) mod time {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::domain::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(crate) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        at.as_millis().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::sandbox::config::Config;
    use crate::sandbox::world::RouteType;

    fn world() -> (Arc<World>, ManualClock) {
        let clock = ManualClock::starting_at(Timestamp::from_millis(1_000));
        let config = Config::default();
        let seed = [1; 32];
        (World::new(&config, Arc::new(clock.clone()), seed), clock)
    }

    fn enrol(world: &World) -> (Msisdn, String) {
        let number = Msisdn::parse("+4799990001").unwrap();
        let now = world.now();
        let scopes = Scopes::parse("openid offline_access");
        world.consents.give("aftertone", &number, &scopes, now);
        let authorization = Authorization {
            client: "aftertone".into(),
            number: number.clone(),
            scopes,
            redirect_uri: "http://127.0.0.1/".into(),
            nonce: None,
            challenge: None,
            authenticated_at: now,
        };
        let code = world.tokens.authorize(authorization, now);
        let redeemed = world
            .tokens
            .redeem(&code, "aftertone", "http://127.0.0.1/", None, now);
        let registration = Registration {
            client: "aftertone".into(),
            sip_uri: "sips:localhost:5061".into(),
            route_type: RouteType::Fallback,
            mobile_originating_prefix: String::new(),
            mobile_terminating_prefix: "00".into(),
            expires_at: now.plus_millis(60_000),
        };
        world.registrations.upsert(&number, registration, now);
        (number, redeemed.unwrap().refresh.unwrap())
    }

    #[tokio::test]
    async fn what_is_kept_is_there_after_a_restart_and_a_used_token_stays_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sandbox.json");
        let (world, _) = self::world();
        world.read_from(&file).unwrap();
        let (number, first) = enrol(&world);
        let now = world.now();
        let second = world.tokens.refresh(&first, "aftertone", None, now);
        let second = second.unwrap().refresh.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        keep(Arc::clone(&world), file.clone(), stop).await;

        let (again, clock) = self::world();
        again.read_from(&file).unwrap();
        assert_eq!(again.kept(), world.kept());
        assert_eq!(again.registrations.of(&number, now).len(), 1);
        assert_eq!(again.consents.clients_of(&number), ["aftertone"]);
        let third = again.tokens.refresh(&second, "aftertone", None, now);
        assert!(third.is_ok(), "{third:?}");
        let replayed = again.tokens.refresh(&first, "aftertone", None, now);
        assert!(replayed.is_err());
        clock.advance_ms(60_000);
        assert!(again.registrations.of(&number, again.now()).is_empty());
    }

    #[tokio::test]
    async fn a_change_is_written_without_being_asked_for_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sandbox.json");
        let (world, _) = self::world();
        let stop = CancellationToken::new();
        let keeping = keep(Arc::clone(&world), file.clone(), stop.clone());
        let changing = async {
            let (_, token) = enrol(&world);
            let mut again = tokio::time::interval(Duration::from_millis(20));
            while !fs::read_to_string(&file).is_ok_and(|text| text.contains(&token)) {
                again.tick().await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(keeping, changing) };
        let done = tokio::time::timeout(Duration::from_secs(20), both).await;
        done.expect("the change is written");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named_and_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sandbox.json");
        fs::write(&file, "{\"grants\": 1}").unwrap();
        let (world, _) = self::world();
        let error = world.read_from(&file).unwrap_err();
        let StartError::Part { source, .. } = error else {
            panic!("{error}");
        };
        assert!(source.to_string().contains("sandbox.json"), "{source}");
    }
}
