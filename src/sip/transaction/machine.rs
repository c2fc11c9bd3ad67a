//! The machines of requests as a core holds them: of an INVITE, or of another request.

use std::time::Instant;

use bytes::Bytes;

use crate::sip::message::StatusCode;
use crate::sip::transaction::Effect;
use crate::sip::transaction::client::Client;
use crate::sip::transaction::client_invite::ClientInvite;
use crate::sip::transaction::server::Server;
use crate::sip::transaction::server_invite::ServerInvite;

/// Either kind of client transaction.
#[derive(Debug)]
pub(crate) enum ClientMachine {
    Invite(ClientInvite),
    Other(Client),
}

impl ClientMachine {
    /// Does what is due.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Effect {
        match self {
            Self::Invite(invite) => invite.on_timeout(now),
            Self::Other(other) => other.on_timeout(now),
        }
    }

    /// When `on_timeout` is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(invite) => invite.deadline(),
            Self::Other(other) => other.deadline(),
        }
    }

    /// Whether nothing more can happen.
    pub(crate) const fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(invite) => invite.is_terminated(),
            Self::Other(other) => other.is_terminated(),
        }
    }

    /// Whether no response at all has come.
    pub(crate) const fn is_calling(&self) -> bool {
        match self {
            Self::Invite(invite) => invite.is_calling(),
            Self::Other(other) => other.is_calling(),
        }
    }
}

/// Either kind of server transaction.
#[derive(Debug)]
pub(crate) enum ServerMachine {
    Invite(ServerInvite),
    Other(Server),
}

impl ServerMachine {
    /// The same request came again.
    pub(crate) fn on_retransmission(&self) -> Effect {
        match self {
            Self::Invite(invite) => invite.on_retransmission(),
            Self::Other(other) => other.on_retransmission(),
        }
    }

    /// The user responds.
    pub(crate) fn respond(&mut self, now: Instant, status: StatusCode, bytes: Bytes) -> Effect {
        match self {
            Self::Invite(invite) => invite.respond(now, status, bytes),
            Self::Other(other) => other.respond(now, status, bytes),
        }
    }

    /// Does what is due.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Effect {
        match self {
            Self::Invite(invite) => invite.on_timeout(now),
            Self::Other(other) => other.on_timeout(now),
        }
    }

    /// When `on_timeout` is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(invite) => invite.deadline(),
            Self::Other(other) => other.deadline(),
        }
    }

    /// Whether nothing more can happen.
    pub(crate) const fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(invite) => invite.is_terminated(),
            Self::Other(other) => other.is_terminated(),
        }
    }

    /// Whether the final response is still to be given.
    pub(crate) const fn is_proceeding(&self) -> bool {
        match self {
            Self::Invite(invite) => invite.is_proceeding(),
            Self::Other(other) => other.is_proceeding(),
        }
    }
}
