//! The pages of subscribers, by real requests over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../http_api/support.rs"]
#[allow(dead_code, reason = "the tests of the API use the rest")]
mod api;
#[path = "../oauth/issuer.rs"]
#[allow(dead_code, reason = "the tests of the OAuth client use the rest")]
mod issuer;

mod browser;
mod events;
mod inbox;
mod sessions;
mod sign_in;
