//! The rules of the SIP RFCs, each as a short story: message bytes in, message bytes out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod challenged;
mod incoming;
mod offers;
mod outgoing;
mod refusals;
mod reliable;
mod routing;
mod sessions;
mod transactions;
