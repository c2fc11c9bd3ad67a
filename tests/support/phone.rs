//! A call that can be watched while it goes on.

use std::sync::atomic::{AtomicU8, Ordering};

use aftertone::caller::{CallPlan, Happened, Phone, PhoneConfig, Report};
use aftertone::sip::Transport;
use aftertone::sip::message::{HeaderName, Uri};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::{NUMBER, SOON, voice};

/// Two phones of one seed would place the same call twice.
static PHONES: AtomicU8 = AtomicU8::new(1);

/// A call under way, from a phone of its own.
pub struct Call {
    steps: mpsc::Receiver<Happened>,
    report: JoinHandle<Report>,
}

impl Call {
    /// Calls `target`, diverted there by the subscriber of the tests, and says three seconds.
    pub fn start(target: Uri, transport: Transport, change: impl FnOnce(&mut CallPlan)) -> Self {
        let diversion = format!("<sip:{NUMBER}@core.example.com>;reason=user-busy;counter=1");
        let mut plan = CallPlan {
            from: Some("sip:+4787654321@127.0.0.1".parse().unwrap()),
            headers: vec![(HeaderName::Diversion, diversion.into())],
            say: Some(voice(3000)),
            longest: SOON,
            ..CallPlan::to(target)
        };
        change(&mut plan);
        let (sender, steps) = mpsc::channel(32);
        let report = TaskTracker::new().spawn(async move {
            let config = PhoneConfig {
                transport,
                tls_ca: None,
                tls_insecure: true,
            };
            let seed = [PHONES.fetch_add(1, Ordering::Relaxed); 32];
            let phone = Phone::start(&config, &plan.target, seed).await.unwrap();
            let tell = |step: &aftertone::caller::Step| {
                // A test that has seen enough does not listen any more.
                sender.try_send(step.happened.clone()).ok();
            };
            let report = phone.call(&plan, tell).await.unwrap();
            phone.stop().await;
            report
        });
        Self { steps, report }
    }

    /// Waits until this has happened in the call.
    pub async fn until(&mut self, wanted: impl Fn(&Happened) -> bool) {
        let found = async {
            while let Some(step) = self.steps.recv().await {
                if wanted(&step) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(SOON, found).await;
        assert_eq!(
            found,
            Ok(true),
            "the call ends without it, or never comes so far"
        );
    }

    /// Waits until the beep is over and the caller speaks.
    pub async fn until_speaking(&mut self) {
        self.until(|step| *step == Happened::Cue).await;
    }

    /// Follows the call to its end.
    pub async fn report(self) -> Report {
        self.report.await.unwrap()
    }
}
