//! The routes, and their description (OpenAPI), which is made of the same list.

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};
use bytes::Bytes;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{KnownFormat, Object, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::Shared;
use crate::http::calls;
use crate::http::events;
use crate::http::greetings;
use crate::http::me;
use crate::http::messages;
use crate::http::problem::Problem;
use crate::http::recording;
use crate::http::settings;
use crate::http::tokens;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "aftertone",
        description = "Voicemail: a subscriber's messages, greeting, settings and tokens. Times are RFC 3339 in UTC; ids and cursors are opaque; every error is application/problem+json."
    ),
    components(schemas(Problem), responses(Problem)),
    modifiers(&Credentials),
    security(("token" = []), ("session" = [])),
    tags(
        (name = "messages", description = "What callers left"),
        (name = "greeting", description = "What callers hear"),
        (name = "account", description = "The subscriber and his settings"),
        (name = "tokens", description = "Access by programs"),
    )
)]
struct Description;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "An API token: `at_…`, made with POST /tokens or by the operator.",
            ));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
        let cookie = ApiKeyValue::with_description(
            "__Host-aftertone",
            "The session of a browser that is signed in; `aftertone` where the service is reached without \
             TLS. A change must come from the service's own pages.",
        );
        let session = SecurityScheme::ApiKey(ApiKey::Cookie(cookie));
        components.add_security_scheme("session", session);
    }
}

/// Every route of the public listener.
pub(crate) fn routes() -> Router<Shared> {
    let (router, api) = described();
    let api = api
        .to_json()
        .map(Bytes::from)
        .expect("a description is plain JSON");
    router.route(
        "/api/openapi.json",
        routing::get(async move || {
            ([(header::CONTENT_TYPE, "application/json")], api).into_response()
        }),
    )
}

fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let uploads = OpenApiRouter::new()
        .routes(routes!(greetings::show, greetings::set, greetings::reset))
        .layer(DefaultBodyLimit::max(greetings::UPLOAD_LIMIT_BYTES));
    let v1 = OpenApiRouter::new()
        .routes(routes!(me::show, me::leave))
        .routes(routes!(messages::list))
        .routes(routes!(messages::show, messages::change, messages::delete))
        .routes(routes!(recording::audio))
        .routes(routes!(calls::list))
        .routes(routes!(events::watch))
        .merge(uploads)
        .routes(routes!(settings::show, settings::change))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke));
    let api = OpenApiRouter::with_openapi(Description::openapi()).nest("/api/v1", v1);
    let (router, mut description) = api.split_for_parts();
    name_heads(&mut description);
    for path in description.paths.paths.values_mut() {
        changes(path).for_each(|operation| may_answer(operation, "403"));
        operations(path).for_each(complete);
    }
    (router, description)
}

/// Those that a browser's session is asked more of.
fn changes(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [
        &mut path.put,
        &mut path.post,
        &mut path.patch,
        &mut path.delete,
    ];
    methods.into_iter().flatten()
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [
        &mut path.get,
        &mut path.head,
        &mut path.put,
        &mut path.post,
        &mut path.patch,
        &mut path.delete,
    ];
    methods.into_iter().flatten()
}

/// An operation has a name of its own, also the HEAD that shares its handler with a GET.
fn name_heads(description: &mut utoipa::openapi::OpenApi) {
    let paths = description.paths.paths.values_mut();
    for head in paths.filter_map(|path| path.head.as_mut()) {
        head.operation_id = head.operation_id.take().map(|id| format!("{id}_head"));
    }
}

/// Adds what every operation may answer, and the words of each status where nothing better is said.
fn complete(operation: &mut Operation) {
    for status in ["401", "500", "503", "504"] {
        may_answer(operation, status);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let status: Option<StatusCode> = status.parse().ok();
            let words = status.and_then(|status| status.canonical_reason());
            response.description = words.unwrap_or("Answer").to_owned();
        }
    }
}

/// A problem of this status, where nothing else is said of it.
fn may_answer(operation: &mut Operation, status: &str) {
    let problem = Ref::from_response_name("Problem");
    let entry = operation.responses.responses.entry(status.into());
    entry.or_insert_with(|| problem.into());
}

/// Stands for the bytes of an audio file, which have no schema but their media type.
pub(crate) enum Audio {}

impl PartialSchema for Audio {
    fn schema() -> RefOr<Schema> {
        let bytes = SchemaFormat::KnownFormat(KnownFormat::Binary);
        let file = ObjectBuilder::new().schema_type(Type::String);
        file.format(Some(bytes)).into()
    }
}

impl ToSchema for Audio {}

/// The names of [`crate::domain::DivertReason`].
pub(crate) fn divert_reason() -> Object {
    one_of([
        "busy",
        "no-answer",
        "unreachable",
        "unconditional",
        "unknown",
    ])
}

/// The names of [`crate::http::registration::Routing`].
pub(crate) fn registration_state() -> Object {
    one_of([
        "provisioned",
        "active",
        "refreshing",
        "refused",
        "consent-lost",
    ])
}

/// The names of [`crate::domain::RecordingEnd`].
pub(crate) fn recording_end() -> Object {
    one_of([
        "hang-up",
        "digit",
        "silence",
        "limit",
        "media-timeout",
        "disk-too-slow",
        "interrupted",
    ])
}

/// The names of [`crate::domain::MediaStage`], or null.
pub(crate) fn media_stage() -> Object {
    let mut stage = one_of(["ice", "dtls", "rtp"]);
    stage.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    if let Some(names) = &mut stage.enum_values {
        names.push(serde_json::Value::Null);
    }
    stage
}

fn one_of<const N: usize>(names: [&'static str; N]) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .build()
}
