//! The seam of the media relay: what may rewrite the session descriptions that pass the core.

use bytes::Bytes;

use crate::domain::Msisdn;

/// A session description on its way, and who sends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Description<'a> {
    /// The call.
    pub(crate) call_id: &'a str,
    /// The tag of the side whose description it is.
    pub(crate) sender_tag: &'a str,
    /// The body.
    pub(crate) body: &'a Bytes,
}

/// Puts itself between the media of calls. Its answers are wanted at once: it must not wait for anything.
pub(crate) trait Relay: Send {
    /// A call begins. An INVITE that comes again is not told again.
    fn begins(&mut self, call_id: &str, caller: Option<&Msisdn>, called: &Msisdn);
    /// What to send instead of a description; `None` leaves it as it is. The same description may pass several
    /// times (a 200 that is repeated, a call that is forked) and must be rewritten alike.
    fn rewrite(&mut self, description: &Description<'_>) -> Option<Bytes>;
    /// A call is over: refused, given up or hung up. Not told where the phones vanish without a word.
    fn ends(&mut self, call_id: &str);
}
