//! The sandbox's identity server and its pages, as clients and browsers meet them.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod leaving;
mod pages;
#[path = "../support/peers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
mod peers;
mod sign_in;
#[allow(unreachable_pub, reason = "used by the other modules of this test")]
mod stand;
mod tokens;
