//! Calls that left no message.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::{MediaStage, MissedCall};
use crate::http::auth::Owner;
use crate::http::openapi;
use crate::http::page::Page;
use crate::http::problem::Problem;
use crate::http::{ApiError, Shared};

/// A call that left no message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MissedCall)]
pub(crate) struct MissedCallBody {
    /// Never changes.
    #[schema(example = "019aaf3e5c8070008a1b2c3d4e5f6071")]
    id: String,
    /// The caller's number in E.164; null where it is withheld or not known.
    #[schema(required, example = "+4721000000")]
    from: Option<String>,
    /// The caller's name, where one was sent.
    #[schema(required)]
    from_name: Option<String>,
    /// Why the call came to the mailbox.
    #[schema(schema_with = openapi::divert_reason)]
    reason: &'static str,
    /// When.
    #[schema(format = DateTime, example = "2026-11-23T03:04:53.120Z")]
    received_at: String,
    /// Why there is no message.
    #[schema(example = "too-short")]
    cause: String,
    /// Where the caller's media never came (`no-media`, or he hung up before): what did not come about.
    /// Else null.
    #[schema(required, schema_with = openapi::media_stage)]
    failed_stage: Option<&'static str>,
}

impl From<MissedCall> for MissedCallBody {
    fn from(call: MissedCall) -> Self {
        Self {
            id: call.id.to_string(),
            from: call.caller.number.map(|number| number.e164().to_owned()),
            from_name: call.caller.name.map(|name| name.0),
            reason: call.reason.as_str(),
            received_at: call.received_at.to_string(),
            cause: call.cause,
            failed_stage: call.failed_stage.map(MediaStage::as_str),
        }
    }
}

/// A page of missed calls.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MissedCallList {
    /// Newest first.
    missed_calls: Vec<MissedCallBody>,
    /// The `cursor` of the next page; null on the last.
    #[schema(required)]
    next: Option<String>,
}

/// Which missed calls to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MissedCallQuery {
    /// At most so many, 1 to 200; 50 unless told.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists the calls that left no message, newest first.
#[utoipa::path(get, path = "/missed-calls", tag = "messages", operation_id = "list_missed_calls",
    params(MissedCallQuery), responses(
    (status = 200, body = MissedCallList, headers(("Link" = String, description = "The next page, as rel=\"next\""))),
    (status = 400, response = Problem),
))]
pub(crate) async fn list(
    State(state): State<Shared>,
    Owner(owner): Owner,
    query: Result<Query<MissedCallQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let page = Page::read(query.limit.as_deref(), query.cursor.as_deref())?;
    let calls = state
        .storage
        .missed_calls(owner.id, page.after, page.rows());
    let mut calls = calls.await?;
    let next = page.cut(&mut calls, |call| call.id);
    let body = MissedCallList {
        missed_calls: calls.into_iter().map(MissedCallBody::from).collect(),
        next: next.clone(),
    };
    Ok(page.respond(body, next.as_deref(), &state.link("/missed-calls"), ""))
}
