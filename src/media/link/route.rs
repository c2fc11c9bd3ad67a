//! Where a call's packets go.

use std::net::SocketAddr;

use crate::media::sdp::MediaParams;

/// Where a call's packets go now. What has no address has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Route {
    /// Media.
    pub rtp: Option<SocketAddr>,
    /// Reports; the same with multiplexing (RFC 5761).
    pub rtcp: Option<SocketAddr>,
}

impl Route {
    /// Everything to one address.
    pub const fn to(address: SocketAddr) -> Self {
        Self {
            rtp: Some(address),
            rtcp: Some(address),
        }
    }
}

/// The addresses of a peer that tells them by its session description, and may send from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    told: Route,
    rtcp_mux: bool,
    latched: Option<SocketAddr>,
    latched_rtcp: Option<SocketAddr>,
}

impl Addresses {
    pub(super) fn new(params: &MediaParams) -> Self {
        Self {
            told: Route {
                rtp: params.remote,
                rtcp: params.remote_rtcp,
            },
            rtcp_mux: params.rtcp_mux,
            latched: None,
            latched_rtcp: None,
        }
    }

    /// A new session description: what was learnt holds as long as it tells the same address.
    pub(super) fn update(&mut self, params: &MediaParams) {
        let former = *self;
        *self = Self::new(params);
        if self.told.rtp == former.told.rtp {
            self.latched = former.latched;
            self.latched_rtcp = former.latched_rtcp;
        }
    }

    /// Media come from another address than was told: answer there.
    pub(super) fn latch(&mut self, from: SocketAddr) {
        self.latched = Some(from);
    }

    /// Reports come from there.
    pub(super) fn latch_rtcp(&mut self, from: SocketAddr) {
        self.latched_rtcp = Some(from);
    }

    pub(super) fn route(&self) -> Route {
        // Without an address in the session description there is hold, whatever was learnt.
        let rtp = self.told.rtp.map(|told| self.latched.unwrap_or(told));
        let rtcp = match self.rtcp_mux {
            true => rtp,
            false => self.latched_rtcp.or(self.told.rtcp),
        };
        Route { rtp, rtcp }
    }
}
