//! A core that does as it is told, for tests of what uses one.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::Secret;
use crate::mobile_core::{CoreError, MobileCore, Wish, answer};

/// Answers as scripted, in order; when the script is at its end, every request succeeds.
#[derive(Debug, Default)]
pub struct FakeMobileCore {
    script: Mutex<VecDeque<Result<Duration, CoreError>>>,
    asked: Mutex<Vec<Asked>>,
}

/// What the core was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which method.
    pub method: Method,
    /// For what.
    pub wish: Wish,
    /// With which token.
    pub token: Secret,
}

/// A method of [`MobileCore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// [`MobileCore::upsert`]
    Upsert,
    /// [`MobileCore::delete`]
    Delete,
}

impl FakeMobileCore {
    /// A core that accepts everything for an hour.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the next request that no other answer waits for is answered. A delete takes its turn
    /// too, and ignores the life.
    pub fn will_answer(&self, answer: Result<Duration, CoreError>) {
        self.script
            .lock()
            .expect("no one panics with it")
            .push_back(answer);
    }

    /// Everything asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no one panics with it").clone()
    }

    fn take(&self, method: Method, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        self.asked
            .lock()
            .expect("no one panics with it")
            .push(Asked {
                method,
                wish: wish.clone(),
                token: token.clone(),
            });
        let next = self
            .script
            .lock()
            .expect("no one panics with it")
            .pop_front();
        next.unwrap_or(Ok(answer::LIFE))
    }
}

#[async_trait]
impl MobileCore for FakeMobileCore {
    async fn upsert(&self, wish: &Wish, token: &Secret) -> Result<Duration, CoreError> {
        self.take(Method::Upsert, wish, token)
    }

    async fn delete(&self, wish: &Wish, token: &Secret) -> Result<(), CoreError> {
        self.take(Method::Delete, wish, token).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Msisdn;

    #[tokio::test]
    async fn it_answers_by_its_script_and_remembers_what_it_was_asked() {
        let core = FakeMobileCore::new();
        let wish = Wish {
            number: Msisdn::parse("+4799990001").unwrap(),
            sip_uri: "sips:voicemail.example.com".into(),
        };
        let token = Secret::new("token");
        core.will_answer(Err(CoreError::Deadline));
        core.will_answer(Ok(Duration::from_secs(10)));
        assert_eq!(core.upsert(&wish, &token).await, Err(CoreError::Deadline));
        assert_eq!(
            core.upsert(&wish, &token).await,
            Ok(Duration::from_secs(10))
        );
        assert_eq!(
            core.upsert(&wish, &token).await,
            Ok(Duration::from_secs(3600))
        );
        assert_eq!(core.delete(&wish, &token).await, Ok(()));
        let methods: Vec<_> = core.asked().iter().map(|asked| asked.method).collect();
        assert_eq!(
            methods,
            [
                Method::Upsert,
                Method::Upsert,
                Method::Upsert,
                Method::Delete
            ]
        );
    }
}
