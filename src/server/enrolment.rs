//! Puts the enrolment together: identity server, mobile core, and what seals tokens.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::enrolment::{Enrolment, Parts, keys};
use crate::http::CALLBACK;
use crate::mobile_core::{Api, GrpcCore, MobileCore};
use crate::oauth;
use crate::server::seed;
use crate::storage::Storage;

/// Starts what keeps subscribers registered and lets them come and leave. Opens no connection.
pub(super) fn start(
    config: &Config,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Enrolment> {
    let vault = keys::open_vault(config.enrolment.token_key.as_ref(), &config.data_dir)?;
    let page = |path: &str| {
        let page = config.page(path);
        page.with_context(|| format!("public_url: {} is no URL", config.public_url()))
    };
    let oauth = match &config.oauth {
        Some(oauth) => {
            let callback = page(CALLBACK)?;
            let clock = Arc::clone(&clock);
            Some(oauth::Client::new(oauth, callback, clock, seed()?)?)
        }
        None => None,
    };
    let core = match config.core.endpoint {
        Some(_) => Some(GrpcCore::new(&config.core)?),
        None => None,
    };
    // v0 has no such events.
    let has_consents = config.core.consent_events && config.core.api == Api::V1;
    let consents = core.clone().filter(|_| has_consents);
    let core = core.map(|core| Arc::new(core) as Arc<dyn MobileCore>);
    let parts = Parts {
        config: config.enrolment.clone(),
        storage,
        vault: Arc::new(vault),
        oauth,
        core,
        consents,
        core_config: config.core.clone(),
        sip_uri: config
            .core
            .endpoint
            .as_ref()
            .map(|_| config.sip.uri.clone()),
        left_url: page("/left")?,
        language: config.greeting.language.clone(),
        clock,
        seed: seed()?,
    };
    Ok(Enrolment::start(parts, tasks, stop))
}
