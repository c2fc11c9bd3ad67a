//! The greeting that callers hear: the subscriber's own, or the service's.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::audio::{Audio, Source};
use crate::http::auth::Owner;
use crate::http::body::AudioUpload;
use crate::http::conditional::Validators;
use crate::http::formats::{Format, Wish};
use crate::http::openapi;
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};
use crate::media::audio;
use crate::secret;
use crate::storage::blob::Blobs;

/// A minute in 16 bits at 48 kHz, in stereo, and a little.
pub(crate) const UPLOAD_LIMIT_BYTES: usize = 12_000_000;

const MAX_SECONDS: usize = 60;

/// A file that no subscriber's row has come to name after this is deleted. No request takes so long.
const UNNAMED_MS: i64 = 60 * 60 * 1000;

/// Tells whose greeting an answer holds: `own` or `default`.
const GREETING: HeaderName = HeaderName::from_static("greeting");

/// The service's greeting.
pub(crate) struct Default {
    file: Bytes,
    etag: String,
}

impl Default {
    pub(crate) fn new(file: Bytes) -> Self {
        let etag = etag(&file);
        Self { file, etag }
    }
}

/// A greeting that was set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Greeting)]
pub(crate) struct GreetingBody {
    /// Its length.
    #[schema(example = 8200)]
    duration_ms: u64,
    /// Its size as stored: mono, 16 bit, at its own rate or 48 kHz.
    #[schema(example = 262444)]
    size_bytes: u64,
}

/// What callers hear now. The `Greeting` header tells whether it is the subscriber's `own` or the
/// service's `default`.
#[utoipa::path(method(get, head), path = "/greeting", tag = "greeting", operation_id = "greeting",
    responses(
    (status = 200, content_type = "audio/wav", body = openapi::Audio, headers(("Greeting" = String, description = "own or default"), ("ETag" = String))),
    (status = 206, content_type = "audio/wav", body = openapi::Audio, headers(("Content-Range" = String))),
    (status = 304, description = "The client has it already"),
    (status = 406, response = Problem), (status = 416, response = Problem),
))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Owner(owner): Owner,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let default = &state.default_greeting;
    let (whose, etag, source) = match owner.greeting {
        // A key is used for one greeting only.
        Some(key) => ("own", etag(key.as_bytes()), Source::Blob(key)),
        None => (
            "default",
            default.etag.clone(),
            Source::Memory(default.file.clone()),
        ),
    };
    Wish::read(None, &headers, &[Format::Wav])?;
    let audio = Audio {
        source,
        format: Format::Wav,
        validators: Validators {
            etag,
            modified: None,
        },
        file_name: "greeting".into(),
    };
    let mut response = audio.respond(&state.blobs, &method, &headers).await?;
    response
        .headers_mut()
        .insert(GREETING, HeaderValue::from_static(whose));
    Ok(response)
}

/// Sets the own greeting: a WAV file or Opus in Ogg, of up to 60 seconds. Callers hear it as well as their
/// call allows.
#[utoipa::path(put, path = "/greeting", tag = "greeting", operation_id = "set_greeting",
    request_body(content((openapi::Audio = "audio/wav"), (openapi::Audio = "audio/ogg")), description = "WAV: PCM of 8 to 32 bits, float or G.711; 8 to 96 kHz; mono or stereo. Ogg: Opus, mono or stereo"),
    responses(
        (status = 200, body = GreetingBody),
        (status = 413, response = Problem), (status = 415, response = Problem), (status = 422, response = Problem),
    ))]
pub(crate) async fn set(
    State(state): State<Shared>,
    Owner(owner): Owner,
    upload: AudioUpload<UPLOAD_LIMIT_BYTES>,
) -> Result<Json<GreetingBody>, ApiError> {
    let greeting = tokio::task::spawn_blocking(move || {
        let greeting = normalised(&upload.file);
        drop(upload.place);
        greeting
    })
    .await;
    let greeting =
        greeting.map_err(|e| ApiError::Internal(format!("reading a greeting: {e}")))??;
    let body = GreetingBody {
        duration_ms: greeting.duration_ms,
        size_bytes: greeting.file.len() as u64,
    };
    let chance = u64::from_ne_bytes(state.random.bytes());
    let key = Blobs::greeting_key(owner.id, state.clock.now(), chance);
    // Whatever keeps the last step from being done, the file does not stay without a name.
    let due_at = state.clock.now().plus_millis(UNNAMED_MS);
    state.storage.announce_blob(&key, due_at).await?;
    state.blobs.put(&key, greeting.file).await?;
    let set = state
        .storage
        .set_greeting(owner.id, Some(&key), state.clock.now());
    set.await?;
    Ok(Json(body))
}

/// Goes back to the service's greeting.
#[utoipa::path(delete, path = "/greeting", tag = "greeting", operation_id = "reset_greeting",
    responses((status = 204, description = "Callers hear the default now")))]
pub(crate) async fn reset(
    State(state): State<Shared>,
    Owner(owner): Owner,
) -> Result<StatusCode, ApiError> {
    let now = state.clock.now();
    state.storage.set_greeting(owner.id, None, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

struct Greeting {
    file: Bytes,
    duration_ms: u64,
}

/// As it is stored: mono, 16 bit, at its own rate.
fn normalised(upload: &[u8]) -> Result<Greeting, ApiError> {
    let (samples, sample_rate) = audio::read_audio(upload)?;
    let rate = sample_rate as usize;
    if samples.len() > MAX_SECONDS * rate {
        let seconds = samples.len().div_ceil(rate);
        return Err(ApiError::Unprocessable(format!(
            "The greeting is {seconds} seconds long; at most {MAX_SECONDS} are allowed."
        )));
    }
    Ok(Greeting {
        duration_ms: (samples.len() * 1000 / rate) as u64,
        file: audio::write_wav_at(&samples, sample_rate).into(),
    })
}

fn etag(identity: &[u8]) -> String {
    let digest = secret::sha256(identity);
    format!("\"{}\"", secret::hex(&digest))
}
