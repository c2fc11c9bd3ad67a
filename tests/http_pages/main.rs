//! The pages of subscribers, by real requests over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../http_api/support.rs"]
#[allow(dead_code, reason = "the tests of the API use the rest")]
mod api;
#[path = "../oauth/issuer.rs"]
#[allow(dead_code, reason = "the tests of the OAuth client use the rest")]
mod issuer;
#[path = "../support/peers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests of telephony use the rest"
)]
mod peers;

mod browser;
mod events;
mod inbox;
mod player;
mod sessions;
mod sign_in;
