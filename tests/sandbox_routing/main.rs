//! The sandbox's SIP core over real sockets: every route type, with phones and an endpoint that are user agents of
//! their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "its modules are this test's own")]

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod authorities;
mod dns;
mod endpoints;
mod matrix;
mod phones;
