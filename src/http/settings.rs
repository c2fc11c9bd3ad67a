//! What a subscriber may choose.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::domain::Subscriber;
use crate::domain::choice;
use crate::domain::choice::InvalidChoice;
use crate::http;
use crate::http::auth::Owner;
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};
use crate::storage::SettingsChange;

/// Bounds of a subscriber's own limit. The service's limit holds as well.
const MESSAGE_SECS: std::ops::RangeInclusive<u32> = 5..=3600;

/// The settings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Settings {
    /// IANA time zone.
    #[schema(example = "Europe/Oslo")]
    time_zone: String,
    /// IETF language tag of prompts and pages.
    #[schema(example = "nb")]
    language: String,
    /// Own limit of a message's length; null where the service's holds.
    #[schema(required, example = 120)]
    max_message_secs: Option<u32>,
    /// Whether to be notified of new messages.
    notify: bool,
}

impl From<Subscriber> for Settings {
    fn from(subscriber: Subscriber) -> Self {
        Self {
            time_zone: subscriber.time_zone,
            language: subscriber.language,
            max_message_secs: subscriber.max_message_secs,
            notify: subscriber.notify,
        }
    }
}

/// What to change; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    /// A name of the IANA time zone database.
    time_zone: Option<String>,
    /// An IETF language tag.
    #[schema(pattern = "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
    language: Option<String>,
    /// 5 to 3600; null goes back to the service's limit.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 5, maximum = 3600)]
    max_message_secs: Option<Option<u32>>,
    /// Whether to be notified of new messages.
    notify: Option<bool>,
}

/// Tells a field that is null from one that is missing.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Shows the settings.
#[utoipa::path(get, path = "/settings", tag = "account", operation_id = "show_settings",
    responses((status = 200, body = Settings)))]
pub(crate) async fn show(Owner(owner): Owner) -> Json<Settings> {
    Json(owner.into())
}

/// Changes settings.
#[utoipa::path(patch, path = "/settings", tag = "account", operation_id = "change_settings",
    request_body(content = SettingsPatch, example = json!({"time_zone": "Europe/Oslo", "max_message_secs": null})),
    responses(
        (status = 200, body = Settings),
        (status = 400, response = Problem), (status = 415, response = Problem), (status = 422, response = Problem),
    ))]
pub(crate) async fn change(
    State(state): State<Shared>,
    Owner(owner): Owner,
    http::Json(patch): http::Json<SettingsPatch>,
) -> Result<Json<Settings>, ApiError> {
    let change = patch.check()?;
    let changed = state.storage.change_settings(owner.id, &change).await?;
    // Gone between two lines: the token went with the subscriber.
    let subscriber = changed.ok_or(ApiError::Unauthorized { presented: true })?;
    Ok(Json(subscriber.into()))
}

impl SettingsPatch {
    fn check(self) -> Result<SettingsChange, ApiError> {
        if let Some(seconds) = self.max_message_secs.flatten()
            && !MESSAGE_SECS.contains(&seconds)
        {
            return Err(ApiError::Unprocessable(
                "`max_message_secs` must be from 5 to 3600, or null.".into(),
            ));
        }
        Ok(SettingsChange {
            time_zone: chosen("time_zone", self.time_zone.as_deref(), choice::time_zone)?,
            language: chosen("language", self.language.as_deref(), choice::language)?,
            max_message_secs: self.max_message_secs,
            notify: self.notify,
        })
    }
}

fn chosen(
    field: &str,
    text: Option<&str>,
    read: fn(&str) -> Result<String, InvalidChoice>,
) -> Result<Option<String>, ApiError> {
    let read = text.map(read).transpose();
    read.map_err(|error| ApiError::Unprocessable(format!("`{field}` {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_limit_is_not_a_missing_one() {
        let read = |text| {
            serde_json::from_str::<SettingsPatch>(text)
                .unwrap()
                .max_message_secs
        };
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"max_message_secs":null}"#), Some(None));
        assert_eq!(read(r#"{"max_message_secs":60}"#), Some(Some(60)));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for text in [
            r#"{"time_zone":"Mars/Olympus"}"#,
            r#"{"language":"en_US"}"#,
            r#"{"max_message_secs":4}"#,
        ] {
            let patch: SettingsPatch = serde_json::from_str(text).unwrap();
            assert!(patch.check().is_err(), "{text}");
        }
    }
}
