//! Session timers (RFC 4028): what is agreed on, and when to refresh or to give up.

use std::time::Duration;
use std::time::Instant;

use crate::sip::header::Refresher;
use crate::sip::header::SessionExpires;
use crate::sip::message::Headers;

/// The smallest interval anybody may demand, in seconds (section 5).
pub const FLOOR_SECS: u32 = 90;

/// What one side wants at most and at least, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Session-Expires asked for and granted at most.
    pub preferred: u32,
    /// Min-SE.
    pub min: u32,
}

/// Min-SE of a message, at least the floor.
pub fn min_se(headers: &Headers) -> u32 {
    headers.min_se().unwrap_or_default().max(FLOOR_SECS)
}

/// What a request's session timer headers lead to in the 2xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// No session timer.
    None,
    /// This in the 2xx, with `Require: timer` when `require`.
    Timer {
        /// The header to send.
        header: SessionExpires,
        /// The sender of the request knows the extension and must refresh.
        require: bool,
    },
    /// 422 with our Min-SE.
    TooSmall,
}

/// Decides as the one who answers an INVITE or UPDATE (section 9, table 2).
pub fn grant(request: &Headers, peer_supports: bool, limits: Limits) -> Grant {
    let asked = request.session_expires();
    let Some(asked) = asked.or_else(|| {
        peer_supports.then_some(SessionExpires {
            seconds: u32::MAX,
            refresher: None,
        })
    }) else {
        return Grant::None;
    };
    if asked.seconds < limits.min && peer_supports {
        return Grant::TooSmall;
    }
    let floor = min_se(request).max(limits.min.min(asked.seconds));
    let seconds = limits.preferred.max(floor).min(asked.seconds.max(floor));
    let refresher = match asked.refresher {
        _ if !peer_supports => Refresher::Uas,
        Some(side) => side,
        None => Refresher::Uac,
    };
    Grant::Timer {
        header: SessionExpires {
            seconds,
            refresher: Some(refresher),
        },
        require: peer_supports && refresher == Refresher::Uac,
    }
}

/// A running session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimer {
    secs: u32,
    ours: bool,
    refresh: Option<Instant>,
    expiry: Instant,
}

impl SessionTimer {
    /// Starts at `now`, when the 2xx was sent or received. `ours`: we are the refresher.
    pub fn start(now: Instant, secs: u32, ours: bool) -> Self {
        let interval = Duration::from_secs(secs.into());
        // Section 10: hang up before the end, by 32 s or a third of the interval.
        let margin = (interval / 3).min(Duration::from_secs(32));
        Self {
            secs,
            ours,
            refresh: ours.then(|| now + interval / 2),
            expiry: now + interval - margin,
        }
    }

    /// As agreed on in a 2xx, seen by its receiver (`we_sent_request`) or its sender.
    pub fn agreed(now: Instant, header: SessionExpires, we_sent_request: bool) -> Self {
        let refresher = header.refresher.unwrap_or(if we_sent_request {
            Refresher::Uac
        } else {
            Refresher::Uas
        });
        Self::start(
            now,
            header.seconds.max(FLOOR_SECS),
            (refresher == Refresher::Uac) == we_sent_request,
        )
    }

    /// The interval in seconds.
    pub const fn secs(&self) -> u32 {
        self.secs
    }

    /// Whether we are the one to refresh.
    pub const fn is_ours(&self) -> bool {
        self.ours
    }

    /// When [`Self::is_refresh_due`] or [`Self::is_expired`] changes.
    pub fn deadline(&self) -> Instant {
        self.refresh
            .map_or(self.expiry, |refresh| refresh.min(self.expiry))
    }

    /// Whether to send a refresh now.
    pub fn is_refresh_due(&self, now: Instant) -> bool {
        self.refresh.is_some_and(|at| now >= at)
    }

    /// Whether to hang up now.
    pub fn is_expired(&self, now: Instant) -> bool {
        now >= self.expiry
    }

    /// The refresh is under way: not due again, unless set by [`Self::retry_at`].
    pub const fn refresh_sent(&mut self) {
        self.refresh = None;
    }

    /// The peer demands a longer interval; the end stays where it is until that is agreed on.
    pub const fn lengthen(&mut self, secs: u32) {
        self.secs = secs;
    }

    /// The refresh must be tried again.
    pub const fn retry_at(&mut self, at: Instant) {
        self.refresh = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use crate::sip::message::HeaderName;

    use super::*;

    const LIMITS: Limits = Limits {
        preferred: 1800,
        min: 90,
    };

    fn headers(lines: &[(HeaderName, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.push(name.clone(), *value);
        }
        headers
    }

    fn granted(lines: &[(HeaderName, &str)], supports: bool) -> Option<(String, bool)> {
        match grant(&headers(lines), supports, LIMITS) {
            Grant::Timer { header, require } => Some((header.to_string(), require)),
            Grant::None | Grant::TooSmall => None,
        }
    }

    #[test]
    fn the_interval_and_the_refresher_follow_table_2() {
        let se = HeaderName::SessionExpires;
        assert_eq!(
            granted(&[(se.clone(), "3600;refresher=uac")], true),
            Some(("1800;refresher=uac".into(), true))
        );
        assert_eq!(
            granted(&[(se.clone(), "600;refresher=uas")], true),
            Some(("600;refresher=uas".into(), false))
        );
        assert_eq!(
            granted(&[(se.clone(), "600")], true),
            Some(("600;refresher=uac".into(), true))
        );
        assert_eq!(
            granted(&[(se.clone(), "600")], false),
            Some(("600;refresher=uas".into(), false))
        );
        assert_eq!(
            granted(&[], true),
            Some(("1800;refresher=uac".into(), true))
        );
        assert_eq!(granted(&[], false), None);
        let floor = [(se.clone(), "3600"), (HeaderName::MinSe, "2400")];
        assert_eq!(
            granted(&floor, true),
            Some(("2400;refresher=uac".into(), true))
        );
    }

    #[test]
    fn too_small_an_interval_is_refused_only_where_it_is_understood() {
        let small = headers(&[(HeaderName::SessionExpires, "60")]);
        assert_eq!(grant(&small, true, LIMITS), Grant::TooSmall);
        assert!(matches!(grant(&small, false, LIMITS), Grant::Timer { .. }));
    }

    #[test]
    fn the_refresher_refreshes_at_half_and_both_give_up_before_the_end() {
        let now = tokio::time::Instant::now().into_std();
        let at = |secs| now + Duration::from_secs(secs);
        let ours = SessionTimer::agreed(
            now,
            SessionExpires {
                seconds: 90,
                refresher: Some(Refresher::Uac),
            },
            true,
        );
        assert!(ours.is_ours() && ours.is_refresh_due(at(45)) && !ours.is_refresh_due(at(44)));
        let theirs = SessionTimer::agreed(
            now,
            SessionExpires {
                seconds: 1800,
                refresher: Some(Refresher::Uac),
            },
            false,
        );
        assert!(!theirs.is_ours() && !theirs.is_refresh_due(at(1700)));
        assert!(theirs.is_expired(at(1768)) && !theirs.is_expired(at(1767)));
    }
}
