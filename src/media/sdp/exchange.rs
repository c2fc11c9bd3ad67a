//! One side of a call's offers and answers, from the first description to the last.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::media::sdp::Keying;
use crate::media::sdp::LocalIdentity;
use crate::media::sdp::MediaParams;
use crate::media::sdp::Negotiated;
use crate::media::sdp::NegotiationError;
use crate::media::sdp::Offer;
use crate::media::sdp::Preferences;
use crate::media::sdp::SessionVersion;
use crate::media::sdp::layout::Layout;
use crate::media::sdp::offer::offer_in;
use crate::media::sdp::read_answer;

/// A call's first description while our address for it is not known: what is agreed on decides
/// which port the call gets, and the port stands in what we say.
#[derive(Debug)]
pub struct Opening {
    preferences: Preferences,
    identity: LocalIdentity,
    media: MediaParams,
    /// `None`: the first offer is ours.
    negotiated: Option<Box<Negotiated>>,
}

impl Opening {
    /// The peer offers.
    pub fn answering(
        offer: &[u8],
        preferences: Preferences,
        mut identity: LocalIdentity,
    ) -> Result<Self, NegotiationError> {
        let negotiated = Offer::parse(offer)?.negotiate(&preferences, &mut identity, None)?;
        Ok(Self {
            preferences,
            identity,
            media: negotiated.media.clone(),
            negotiated: Some(Box::new(negotiated)),
        })
    }

    /// We offer.
    pub fn offering(preferences: Preferences, identity: LocalIdentity) -> Self {
        Self {
            media: MediaParams::of_offer(&preferences, &identity),
            preferences,
            identity,
            negotiated: None,
        }
    }

    /// What is agreed on so far.
    pub const fn media(&self) -> &MediaParams {
        &self.media
    }

    /// With our address known, the description to be sent: the answer, or our offer. `session_id`
    /// is a number that no other call has.
    pub fn at(self, local: SocketAddr, session_id: u64) -> (Exchange, Bytes) {
        let mut exchange = Exchange {
            local,
            version: SessionVersion::first(session_id),
            layout: Layout::of_first_offer(self.preferences.offer),
            preferences: self.preferences,
            identity: self.identity,
            agreed: None,
            offered: None,
            sent: 0,
        };
        let description = match self.negotiated {
            Some(negotiated) => {
                let answer = negotiated.answer(local, exchange.version);
                exchange.layout = negotiated.layout;
                exchange.agreed = Some(negotiated.media);
                answer
            }
            None => exchange.our_offer(),
        };
        exchange.sent = digest(&description);
        (exchange, description)
    }
}

/// One side of a call's offers and answers (RFC 3264). Keys, ICE credentials and the codec stay
/// over new offers as long as they allow it.
#[derive(Debug)]
pub struct Exchange {
    local: SocketAddr,
    version: SessionVersion,
    preferences: Preferences,
    identity: LocalIdentity,
    layout: Layout,
    agreed: Option<MediaParams>,
    /// Our offer that waits for its answer.
    offered: Option<Bytes>,
    /// The digest of the last description sent.
    sent: u64,
}

impl Exchange {
    /// What was agreed on last; `None` while our first offer waits.
    pub const fn agreed(&self) -> Option<&MediaParams> {
        self.agreed.as_ref()
    }

    /// The peer offers anew: hold, resume, another address or codec, an ICE restart, or just the
    /// same again. Gives what is agreed on, and the answer. An offer that is refused changes
    /// nothing.
    pub fn on_offer(&mut self, offer: &[u8]) -> Result<(MediaParams, Bytes), NegotiationError> {
        let agreed = self.agreed.as_ref();
        let negotiated =
            Offer::parse(offer)?.negotiate(&self.preferences, &mut self.identity, agreed)?;
        let answer = self.next(|it| negotiated.answer(it.local, it.version));
        self.agreed = Some(negotiated.media.clone());
        self.layout = negotiated.layout;
        Ok((negotiated.media, answer))
    }

    /// We offer, anew or because the peer asks for it.
    pub fn offer(&mut self) -> Bytes {
        self.next(Self::our_offer)
    }

    /// The answer to our offer. `None` if there is none that waits.
    pub fn on_answer(&mut self, answer: &[u8]) -> Result<Option<MediaParams>, NegotiationError> {
        let Some(offered) = self.offered.take() else {
            return Ok(None);
        };
        let media = read_answer(&offered, answer)?;
        if media.keying == Keying::Plain && !self.preferences.plain_rtp {
            return Err(NegotiationError::WrongAnswer(
                "it takes the protection back",
            ));
        }
        if let Keying::Sdes { send, .. } = &media.keying {
            self.identity.note_use(send);
        }
        self.agreed = Some(media.clone());
        Ok(Some(media))
    }

    fn our_offer(&mut self) -> Bytes {
        let offer = offer_in(
            &self.layout,
            self.local,
            self.version,
            &self.preferences,
            &self.identity,
            self.agreed.as_ref(),
        );
        self.offered = Some(offer.clone());
        offer
    }

    /// The next description. Its version differs from the last one's if anything in it does
    /// (RFC 3264 section 8).
    fn next(&mut self, describe: impl Fn(&mut Self) -> Bytes) -> Bytes {
        let same = describe(self);
        if digest(&same) == self.sent {
            return same;
        }
        self.version.increment();
        let description = describe(self);
        self.sent = digest(&description);
        description
    }
}

fn digest(description: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    description.hash(&mut hasher);
    hasher.finish()
}
