//! Media: session descriptions, audio, and the engine that plays and records calls over RTP.
//!
//! The pure part, from below: [`audio`] (codecs, prompts, speech), [`sdp`], [`rtp`], [`jitter`]
//! and [`timeline`] (packets in order and in time), [`recording`] (what is kept of them), [`session`]
//! (one call's media), [`demux`] (which call a packet belongs to). [`engine`] gives them threads and
//! sockets.

pub mod audio;
pub mod demux;
pub mod dtls;
pub mod engine;
pub mod ice;
pub mod jitter;
pub mod link;
pub mod recording;
pub mod rtp;
pub mod sdp;
pub mod session;
pub mod srtp;
pub mod timeline;

pub use crate::media::engine::Config;
pub use crate::media::engine::Engine;
pub use crate::media::engine::OpenError;
pub use crate::media::engine::Session;
pub use crate::media::engine::StartError;
pub use crate::media::engine::Stats;
pub use crate::media::engine::prepare;
pub use crate::media::link::Stage;
pub use crate::media::recording::Chunk;
pub use crate::media::sdp::Direction;
pub use crate::media::sdp::MediaParams;
pub use crate::media::session::Lost;
pub use crate::media::session::MediaEvent;
pub use crate::media::session::RecordLimits;
pub use crate::media::session::RecordingEnd;
pub use crate::media::session::RecordingSummary;
