//! aftertone: voicemail for telephone operators.
//!
//! A mobile core diverts a call to us; we answer, play a greeting, record the caller, and let the
//! subscriber hear the message over HTTP. `ARCHITECTURE.md` has the map and the walkthroughs; a call
//! is best followed from [`voicemail::call`], a subscriber's coming and going from [`enrolment`].
//!
//! # Invariants
//!
//! 1. Pure files open no socket or file, start no task, read no clock and no random number of the
//!    system.
//! 2. [`sip`] does not interpret session descriptions; [`media`] does not know SIP. Only
//!    `voicemail::conversation` and [`caller`] join them.
//! 3. Only media workers touch RTP sockets. They never wait for anything but the poll, take no
//!    lock, and do not log per packet.
//! 4. A message exists if and only if its row exists. The row is written after its blob is durable,
//!    and together with its outbox row.
//! 5. Every INVITE gets exactly one final response; every call ends in exactly one
//!    [`CallOutcome`](voicemail::call::CallOutcome).
//! 6. SQL stands only in [`storage`]. Paths of recordings are made only in [`storage::blob`].
//! 7. A subscriber's number is a [`Msisdn`](domain::Msisdn), and a `Msisdn` prints redacted.
//! 8. Every queue is bounded. Every task is tracked. Every wait has a deadline or can be cancelled.
//! 9. Nobody reaches messages by caller number. A number's mailbox opens to the account that proved
//!    the number, and not to the next holder of the number.
//! 10. Tokens lie on disk sealed, and a rotated refresh token is durable before it is used. No log
//!     shows either.
//! 11. What leaving demands is written down in the transaction in which the subscriber is gone;
//!     every step of it may be repeated.
//! 12. Nothing behaves differently because of the sandbox.

pub mod caller;
pub mod clock;
pub mod config;
mod connections;
pub mod domain;
pub mod enrolment;
pub mod http;
pub mod media;
pub mod mobile_core;
pub mod oauth;
mod random;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod signals;
pub mod sip;
pub mod storage;
pub mod telemetry;
pub mod vault;
pub mod voicemail;
