//! Whether the tokens of subscribers can be opened.

use std::path::Path;

use aftertone::config::Config;
use aftertone::enrolment::keys;
use aftertone::storage::Storage;
use aftertone::vault::Vault;

use crate::commands::check::{Finding, chain, database_file};

const SETTING: &str = "enrolment.token_key";

/// `None` where nobody can sign in, and so there is nothing to seal.
pub(super) async fn check(config: &Config) -> Option<Finding> {
    config.oauth.as_ref()?;
    let file = keys::file(&config.data_dir);
    let vault = match config.enrolment.token_key.is_some() || file.exists() {
        true => match keys::open_vault(config.enrolment.token_key.as_ref(), &config.data_dir) {
            Ok(vault) => Some(vault),
            Err(error) => return Some(Finding::fail(SETTING, chain(&error))),
        },
        false => None,
    };
    let opens = match opens_all(config, vault.as_ref()).await {
        Ok(opens) => opens,
        Err(error) => return Some(Finding::fail(SETTING, format!("{error:#}"))),
    };
    Some(match (opens, vault) {
        (false, _) => Finding::fail(
            SETTING,
            format!(
                "subscribers' tokens in the database are sealed with a key that is not here; restore {} \
                 from its backup, or add the key to enrolment.token_key, or these subscribers must sign in again",
                file.display()
            ),
        ),
        (true, Some(_)) => Finding::ok(SETTING, "opens the tokens of all subscribers"),
        (true, None) => Finding::ok(
            SETTING,
            format!("{} will be made at the first start", file.display()),
        ),
    })
}

async fn opens_all(config: &Config, vault: Option<&Vault>) -> anyhow::Result<bool> {
    if !Path::new(database_file(&config.database_url())).exists() {
        return Ok(true);
    }
    let storage = crate::commands::open_storage(config).await?;
    let key_ids = storage.keys_of_grants().await;
    storage.close().await;
    let opens = |key_id| vault.is_some_and(|vault| vault.has_key(key_id));
    Ok(key_ids?.into_iter().all(opens))
}
