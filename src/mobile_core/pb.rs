//! The generated messages, clients and (with the feature `sandbox`) servers of `proto/`, in modules
//! by their packages.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::use_self,
    reason = "generated code; proto/ has the comments"
)]

include!(concat!(env!("OUT_DIR"), "/core_api.rs"));

/// The descriptors of all of it, for reflection.
#[cfg(feature = "sandbox")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/core_api.bin"));
