//! Encoding prompts before a media worker asks for their frames.

use std::sync::Arc;

use tracing::warn;

use crate::media::audio::Codec;
use crate::media::audio::Prompt;

/// Encodes `prompts` for `codec`, where that was not done before, on a thread that holds up nobody: a media worker that
/// had to would be late for all its calls.
pub async fn prepare(prompts: &[Arc<Prompt>], codec: Codec) {
    let missing = prompts.iter().filter(|prompt| !prompt.is_prepared(codec));
    let missing: Vec<_> = missing.cloned().collect();
    if missing.is_empty() {
        return;
    }
    let encoding = move || missing.iter().for_each(|prompt| prompt.prepare(codec));
    if let Err(error) = tokio::task::spawn_blocking(encoding).await {
        warn!(%error, ?codec, "A prompt cannot be encoded");
    }
}
