//! The HTTP API by real requests over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod description;
mod formats;
mod greeting;
mod mailbox;
mod recording;
mod service;
mod support;
