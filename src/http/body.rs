//! Bodies of requests: read within a time, and refused in our own words.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::http::{ApiError, Shared};

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        let reading = axum::Json::<T>::from_request(request, state);
        let read = tokio::time::timeout(state.body_timeout, reading).await;
        let axum::Json(value) = read.map_err(|_| ApiError::SlowBody)??;
        Ok(Self(value))
    }
}

/// A WAV or Ogg file of at most `LIMIT` bytes; the route must allow so many. As long as it lives, it takes
/// one of the few places for uploads.
pub(crate) struct AudioUpload<const LIMIT: usize> {
    pub(crate) file: Bytes,
    pub(crate) place: OwnedSemaphorePermit,
}

impl<const LIMIT: usize> FromRequest<Shared> for AudioUpload<LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        if !is_audio(&request) {
            return Err(ApiError::UnsupportedMediaType(
                "a WAV file, sent as audio/wav, or Opus in Ogg, sent as audio/ogg",
            ));
        }
        let too_large = ApiError::TooLarge { limit_bytes: LIMIT };
        if content_length(&request).is_some_and(|length| length > LIMIT as u64) {
            return Err(too_large);
        }
        let place = Arc::clone(&state.uploads).try_acquire_owned();
        let place = place.map_err(|_| ApiError::Overloaded)?;
        let reading = Bytes::from_request(request, state);
        let read = tokio::time::timeout(state.body_timeout, reading).await;
        let body = read.map_err(|_| ApiError::SlowBody)?;
        let file = body.map_err(|rejection| ApiError::from_body(&rejection, LIMIT))?;
        Ok(Self { file, place })
    }
}

/// Any of the names that WAV and Ogg go by. Where the client was not told what it sends, the bytes tell: no
/// name at all, or that of a form, which is what curl and others say of themselves.
fn is_audio(request: &Request) -> bool {
    let Some(content_type) = request.headers().get(header::CONTENT_TYPE) else {
        return true;
    };
    let name = content_type.to_str().unwrap_or_default();
    let name = name.split(';').next().unwrap_or_default().trim();
    [
        "audio/wav",
        "audio/x-wav",
        "audio/wave",
        "audio/vnd.wave",
        "audio/ogg",
        "audio/opus",
        "application/ogg",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ]
    .iter()
    .any(|known| name.eq_ignore_ascii_case(known))
}

fn content_length(request: &Request) -> Option<u64> {
    let length = request.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}
