//! A subscriber leaves, whatever happens meanwhile: a real database and a real client of an identity
//! server on loopback, a core that is as difficult as it can be, and a service that is stopped anywhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod core;
#[path = "../oauth/issuer.rs"]
#[allow(dead_code, reason = "it can tell more lies than are needed here")]
mod issuer;
mod secrets;
mod stories;
mod world;
