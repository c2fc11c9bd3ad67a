//! The audio of a message, in the format that is wanted.

use std::fs::File;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use jiff::tz::TimeZone;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::domain::{AudioFormat, Message, Msisdn, NewMessage, Subscriber};
use crate::http::audio::{Audio, Conversion, Source};
use crate::http::auth::Owner;
use crate::http::conditional::Validators;
use crate::http::expansion::Expansion;
use crate::http::formats::{Format, Wish};
use crate::http::messages;
use crate::http::openapi;
use crate::http::page::given;
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};
use crate::media::audio::Law;
use crate::media::audio::convert;
use crate::secret;
use crate::storage::blob::Blobs;

/// Grows when what is made of a recording comes out otherwise than before: a client must not go on with
/// what it got of the former.
const CONVERTER: u8 = 1;

/// Which format of a recording is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AudioQuery {
    /// `wav`, `ogg`, or `original`: as it lies in the store. Comes before `Accept`.
    #[param(example = "ogg")]
    format: Option<String>,
}

/// The recording, whole or in part: as WAV (linear, 16 bit), or as Opus in Ogg where the query or `Accept`
/// asks for that. Each has an entity tag of its own.
#[utoipa::path(method(get, head), path = "/messages/{id}/audio", tag = "messages", operation_id = "message_audio",
    params(("id" = String, Path), AudioQuery,
        ("Range" = Option<String>, Header, description = "One range of bytes (RFC 9110 section 14); several are answered whole"),
        ("If-Range" = Option<String>, Header), ("If-None-Match" = Option<String>, Header), ("If-Modified-Since" = Option<String>, Header)),
    responses(
        (status = 200, content((openapi::Audio = "audio/wav"), (openapi::Audio = "audio/ogg")), headers(("ETag" = String), ("Last-Modified" = String), ("Accept-Ranges" = String))),
        (status = 206, content((openapi::Audio = "audio/wav"), (openapi::Audio = "audio/ogg")), headers(("Content-Range" = String))),
        (status = 304, description = "The client has it already"),
        (status = 400, response = Problem), (status = 404, response = Problem), (status = 406, response = Problem),
        (status = 412, response = Problem), (status = 416, response = Problem),
    ))]
pub(crate) async fn audio(
    State(state): State<Shared>,
    Owner(owner): Owner,
    Path(id): Path<String>,
    query: Result<Query<AudioQuery>, QueryRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let message = messages::find(&state, &owner, &id).await?;
    let wish = Wish::read(given(query.format.as_deref()), &headers, &Format::ALL)?;
    let audio = representation(&owner, &message, wish);
    audio.respond(&state.blobs, &method, &headers).await
}

/// Formats in which a recording that lies in the store as `stored` can be had, that one first.
pub(crate) const fn formats(stored: AudioFormat) -> [Format; 2] {
    match stored {
        AudioFormat::OggOpus => [Format::Ogg, Format::Wav],
        AudioFormat::WavPcm | AudioFormat::WavPcmu | AudioFormat::WavPcma => Format::ALL,
    }
}

fn representation(owner: &Subscriber, message: &Message, wish: Wish) -> Audio {
    let facts = &message.facts;
    let audio = &facts.audio;
    let [own_format, _] = formats(audio.format);
    let (source, format) = match wish {
        Wish::Original => (stored(facts), own_format),
        Wish::Format(format) => (source(facts, format), format),
    };
    let hash = secret::hex(&audio.sha256);
    let etag = match &source {
        Source::Expanded(_) | Source::Converted(_) => {
            format!("\"{hash}-{CONVERTER}.{}\"", format.extension())
        }
        Source::Blob(_) | Source::Memory(_) => format!("\"{hash}\""),
    };
    Audio {
        source,
        format,
        validators: Validators {
            etag,
            modified: Some(facts.received_at.plus_millis(audio.duration_ms().into())),
        },
        file_name: file_name(owner, message),
    }
}

fn stored(facts: &NewMessage) -> Source {
    Source::Blob(Blobs::recording_key(facts.id, facts.audio.format))
}

fn source(facts: &NewMessage, format: Format) -> Source {
    let audio = &facts.audio;
    let key = Blobs::recording_key(facts.id, audio.format);
    let expanded = |law| {
        Source::Expanded(Expansion {
            key: key.clone(),
            law,
            sample_rate: audio.sample_rate,
            samples: audio.samples,
        })
    };
    match (format, audio.format) {
        (Format::Wav, AudioFormat::WavPcm) | (Format::Ogg, AudioFormat::OggOpus) => stored(facts),
        (Format::Wav, AudioFormat::WavPcmu) => expanded(Law::Mu),
        (Format::Wav, AudioFormat::WavPcma) => expanded(Law::A),
        (Format::Wav, AudioFormat::OggOpus) => Source::Converted(Conversion {
            key,
            kind: "wav",
            make: |from, to| convert::ogg_to_wav(File::open(from)?, to),
            size: Some(audio.wav_bytes()),
        }),
        (Format::Ogg, _) => Source::Converted(Conversion {
            key,
            kind: "ogg",
            make: |from, to| convert::wav_to_ogg(File::open(from)?, to),
            size: None,
        }),
    }
}

/// `voicemail-2026-11-23-0404-4721000000`, in the subscriber's own time.
fn file_name(owner: &Subscriber, message: &Message) -> String {
    let facts = &message.facts;
    let zone = TimeZone::get(&owner.time_zone).unwrap_or(TimeZone::UTC);
    let at = jiff::Timestamp::from_millisecond(facts.received_at.as_millis()).unwrap_or_default();
    let at = at.to_zoned(zone).strftime("%Y-%m-%d-%H%M");
    let caller = facts.caller.number.as_ref().map_or("unknown", Msisdn::e164);
    format!("voicemail-{at}-{}", caller.trim_start_matches('+'))
}
