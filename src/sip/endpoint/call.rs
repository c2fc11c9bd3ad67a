//! The state of one call, from the INVITE to the end of the BYE.

use std::time::Instant;

use bytes::Bytes;

use crate::sip::dialog::Dialog;
use crate::sip::dialog::session_timer::SessionTimer;
use crate::sip::digest::Credentials;
use crate::sip::endpoint::api::OfferId;
use crate::sip::endpoint::client::ClientId;
use crate::sip::endpoint::server::ServerId;
use crate::sip::flow::Flow;
use crate::sip::header::Reason;
use crate::sip::header::SessionExpires;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Uri;
use crate::sip::transaction::Backoff;

/// One call. What few calls have at a time is boxed.
#[derive(Debug)]
pub(super) struct Call {
    /// Where the peer was heard last.
    pub(super) flow: Option<Flow>,
    /// Our tag: it names the call in requests of the peer.
    pub(super) local_tag: Box<str>,
    /// The dialog; none for an outgoing call before its 2xx.
    pub(super) dialog: Option<Dialog>,
    pub(super) phase: Phase,
    /// The description we sent last, for a refresh by re-INVITE.
    pub(super) description: Option<Bytes>,
    /// Whether the peer takes UPDATE.
    pub(super) peer_updates: bool,
    /// A 2xx of ours that waits for its ACK.
    pub(super) unacked: Option<Box<Unacked>>,
    /// A request of the peer that waits for the application.
    pub(super) pending: Option<Box<Pending>>,
    /// A re-INVITE or UPDATE of ours that waits for its response.
    pub(super) own: Option<Box<Own>>,
    pub(super) session: Option<SessionTimer>,
    /// The Min-SE that the peer demanded.
    pub(super) min_se: Option<u32>,
    /// The BYE to be sent once the ACK has come.
    pub(super) farewell: Option<Option<Reason>>,
    /// Our BYE waits for its response.
    pub(super) bye_sent: bool,
    /// The application knows that offer and answer are complete.
    pub(super) confirmed: bool,
    /// The call is an outgoing one.
    pub(super) placed: bool,
}

/// How far a call has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// The application decides on the INVITE.
    Deciding {
        invite: ServerId,
        setup: Setup,
        limit: Instant,
    },
    /// A reliable 183 waits for its PRACK (RFC 3262).
    Reliable {
        invite: ServerId,
        setup: Setup,
        rseq: u32,
        response: Bytes,
        again: Backoff,
        end: Instant,
    },
    /// The PRACK bore an offer; the 200 waits until that is decided on.
    Pracked { invite: ServerId, setup: Setup },
    /// Our INVITE waits for its final response.
    Calling(Calling),
    /// Our INVITE without offer was accepted; the ACK waits for the application's answer.
    Answered {
        invite: ClientId,
        cseq: u32,
        tag: Box<str>,
        limit: Instant,
    },
    /// The INVITE was accepted.
    Established,
    /// The application was told of the end; what is left is between us and the peer.
    Closing,
}

/// What the INVITE of the peer asked for.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// It had an offer.
    pub(super) offered: bool,
    /// CSeq of the INVITE, for RAck.
    pub(super) cseq: u32,
    /// It requires 100rel.
    pub(super) reliable: bool,
    pub(super) session: Option<SessionGrant>,
    /// It has an Expires header: who lets it pass has cancelled.
    pub(super) expires: bool,
}

/// The session timer that a 2xx of ours will tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionGrant {
    pub(super) header: SessionExpires,
    pub(super) require: bool,
}

/// An outgoing INVITE.
#[derive(Debug)]
pub(super) struct Calling {
    pub(super) invite: ClientId,
    pub(super) offered: bool,
    pub(super) cancel: Cancel,
    /// How long the peer may let it ring.
    pub(super) limit: Instant,
    /// Early dialogs, one per fork that has sent a To tag.
    pub(super) early: Vec<Early>,
    /// How often 422, 401 or 407 was followed.
    pub(super) retries: u8,
    pub(super) credentials: Option<Credentials>,
}

/// Whether an outgoing INVITE is being cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// As soon as a provisional response comes (RFC 3261 section 9.1).
    Wanted,
    Sent,
}

/// An early dialog of ours, and the last reliable response in it.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) dialog: Dialog,
    pub(super) rseq: Option<u32>,
}

/// A 2xx that is repeated until its ACK comes (RFC 3261 section 13.3.1.4).
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) invite: ServerId,
    pub(super) cseq: u32,
    pub(super) response: Bytes,
    pub(super) again: Backoff,
    pub(super) end: Instant,
    /// Our offer was in it: the ACK must bear the answer.
    pub(super) wants_answer: bool,
}

/// An offer of the peer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: OfferId,
    pub(super) server: ServerId,
    pub(super) method: Method,
    pub(super) cseq: u32,
    /// There was a description; otherwise ours will be the offer.
    pub(super) offered: bool,
    pub(super) session: Option<SessionGrant>,
    /// The new remote target, taken over when the request is accepted.
    pub(super) target: Option<Uri>,
    pub(super) limit: Instant,
}

/// A re-INVITE or UPDATE of ours.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) client: ClientId,
    pub(super) method: Method,
    pub(super) cseq: u32,
    /// The application's new description; none for a refresh.
    pub(super) offer: Option<Bytes>,
}

impl Call {
    pub(super) fn new(flow: Option<Flow>, local_tag: Box<str>, phase: Phase) -> Self {
        Self {
            flow,
            local_tag,
            dialog: None,
            phase,
            description: None,
            peer_updates: false,
            unacked: None,
            pending: None,
            own: None,
            session: None,
            min_se: None,
            farewell: None,
            bye_sent: false,
            confirmed: false,
            placed: flow.is_none(),
        }
    }

    /// Whether the application was told of the end.
    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Whether nothing is left to do.
    pub(super) const fn is_over(&self) -> bool {
        self.is_closing()
            && self.unacked.is_none()
            && self.farewell.is_none()
            && self.own.is_none()
            && !self.bye_sent
    }

    /// The dialog, early ones included, that a message of the peer belongs to.
    pub(super) fn dialog_of(
        &mut self,
        call_id: &HeaderValue,
        remote_tag: &str,
    ) -> Option<&mut Dialog> {
        let early = match &mut self.phase {
            Phase::Calling(calling) => calling.early.as_mut_slice(),
            _ => &mut [],
        };
        let mut dialogs = self
            .dialog
            .iter_mut()
            .chain(early.iter_mut().map(|early| &mut early.dialog));
        dialogs.find(|dialog| dialog.matches(call_id, remote_tag))
    }

    /// The headers of ours that every response in the dialog bears.
    pub(super) fn identity(&self) -> Vec<(HeaderName, HeaderValue)> {
        let id = self.dialog.as_ref().and_then(Dialog::session_id);
        id.map(|id| (HeaderName::SessionId, id.value()))
            .into_iter()
            .collect()
    }

    /// Learns what the peer can do.
    pub(super) fn learn_peer(&mut self, headers: &Headers) {
        if headers.has(&HeaderName::Allow) {
            self.peer_updates = headers.has_token(&HeaderName::Allow, Method::Update.as_str());
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Deciding { limit, .. } | Phase::Answered { limit, .. } => Some(*limit),
            Phase::Calling(calling) if calling.cancel == Cancel::No => Some(calling.limit),
            Phase::Reliable { again, end, .. } => Some(again.due().min(*end)),
            Phase::Calling(_) | Phase::Pracked { .. } | Phase::Established | Phase::Closing => None,
        };
        let unacked = self
            .unacked
            .as_ref()
            .map(|unacked| unacked.again.due().min(unacked.end));
        let pending = self.pending.as_ref().map(|pending| pending.limit);
        let session = self
            .session
            .as_ref()
            .filter(|_| !self.is_closing())
            .map(SessionTimer::deadline);
        [phase, unacked, pending, session]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_small() {
        let size = size_of::<Call>();
        assert!(size <= 768, "{size} bytes");
    }
}
