//! A core that keeps registrations, and can be in trouble.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use aftertone::domain::Secret;
use aftertone::mobile_core::{CoreError, MobileCore, Wish};
use async_trait::async_trait;

const LIFE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Trouble {
    #[default]
    None,
    /// It refuses for now.
    Unavailable,
    /// It does what it is asked, and the answer is lost.
    SilentAfterDoing,
    /// It does not take this token any more.
    Refuses(Secret),
}

#[derive(Default)]
pub(crate) struct Core(Mutex<State>);

#[derive(Default)]
struct State {
    trouble: Trouble,
    registered: HashMap<String, String>,
    last_token: Option<Secret>,
    deletes: usize,
}

impl Core {
    pub(crate) fn is_in(&self, trouble: Trouble) {
        self.state().trouble = trouble;
    }

    pub(crate) fn is_registered(&self, number: &str) -> bool {
        self.state().registered.contains_key(number)
    }

    /// How often a deletion was asked for.
    pub(crate) fn deletes(&self) -> usize {
        self.state().deletes
    }

    pub(crate) fn last_token(&self) -> Secret {
        self.state().last_token.clone().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn ask(&self, token: &Secret, act: impl FnOnce(&mut State)) -> Result<(), CoreError> {
        {
            let mut state = self.state();
            state.last_token = Some(token.clone());
            match &state.trouble {
                Trouble::Unavailable => return Err(CoreError::Unavailable("down".into())),
                Trouble::Refuses(refused) if refused == token => {
                    return Err(CoreError::Unauthenticated);
                }
                _ => act(&mut state),
            }
            if state.trouble != Trouble::SilentAfterDoing {
                return Ok(());
            }
        }
        std::future::pending().await
    }
}

#[async_trait]
impl MobileCore for Core {
    async fn upsert(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        let upsert = self.ask(token, |state| {
            let number = wish.number.e164().to_owned();
            state.registered.insert(number, wish.sip_uri.clone());
        });
        upsert.await.map(|()| LIFE)
    }

    async fn delete(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        self.state().deletes += 1;
        let delete = self.ask(token, |state| {
            if state.registered.get(wish.number.e164()) == Some(&wish.sip_uri) {
                state.registered.remove(wish.number.e164());
            }
        });
        delete.await
    }
}
