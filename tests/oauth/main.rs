//! The client of the identity server, against one that lies when told to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
mod client;
mod id_tokens;
#[allow(dead_code, reason = "other tests use the rest")]
mod issuer;
mod log;
mod sign_in;
mod tls;
