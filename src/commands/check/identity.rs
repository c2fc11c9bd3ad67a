//! Whether subscribers can sign in at the identity server.

use std::sync::Arc;

use aftertone::clock::SystemClock;
use aftertone::config::Config;
use aftertone::http::CALLBACK;
use aftertone::mobile_core::TokenKind;
use aftertone::oauth::{Client, Error, Step};

use crate::commands::check::{Finding, chain};

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    const SETTING: &str = "oauth";
    let Some(oauth) = &config.oauth else {
        return vec![if config.core.endpoint.is_some() {
            Finding::fail(
                SETTING,
                "is not set, so that there is no token with which core.endpoint would take a registration; \
                 set the section, or leave core.endpoint out",
            )
        } else {
            Finding::ok(SETTING, "is not set, nobody can sign in on the web")
        }];
    };
    let Ok(callback) = config.page(CALLBACK) else {
        let public_url = config.public_url();
        let fault = format!("{public_url} is no URL to which a browser could be sent back");
        return vec![Finding::fail("public_url", fault)];
    };
    // Nothing secret is made here: no sign-in begins.
    let client = match Client::new(oauth, callback, Arc::new(SystemClock), [0; 32]) {
        Ok(client) => client,
        Err(error) => return vec![Finding::fail(SETTING, chain(&error))],
    };
    let needs_own_token = config.core.endpoint.is_some() && config.core.token == TokenKind::Client
        || oauth.revoke_consent_endpoint.is_some();
    let reached = client.reach(needs_own_token).await;
    reached
        .into_iter()
        .map(|one| match one.found {
            Ok(sentence) => Finding::ok(one.setting, sentence),
            Err(error) => {
                let fault = format!("{}; {}", chain(&error), way_out(&error));
                Finding::fail(one.setting, fault)
            }
        })
        .collect()
}

fn way_out(error: &Error) -> &'static str {
    match error {
        Error::Unavailable { .. } => {
            "see that oauth.issuer is right, that this machine may connect there, and that oauth.ca_file \
             names who signed its certificate"
        }
        Error::Refused {
            step: Step::Authorization,
            ..
        } => {
            "register public_url with /auth/callback there as the redirect URI, and see oauth.client_id and \
             oauth.scopes"
        }
        Error::Refused { code, .. } => match &**code {
            "invalid_client" => "see oauth.client_id and oauth.client_secret",
            "invalid_scope" => "set oauth.client_scopes to what this client may ask for",
            "unauthorized_client" | "unsupported_grant_type" => {
                "have this client allowed to use client credentials"
            }
            _ => "ask who runs it how this client is registered",
        },
        _ => "see that oauth.issuer is right, or set the endpoints one by one",
    }
}
