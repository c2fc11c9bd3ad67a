//! How a call between numbers is routed by the virtual registrations of both.

use crate::domain::Msisdn;
use crate::sandbox::world::Registration;
use crate::sandbox::world::RouteType;

/// Whose registration brings an endpoint in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// The caller's.
    Originating,
    /// That of who is called.
    Terminating,
}

/// A leg to an endpoint: where to, and what stands before the called number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) sip_uri: String,
    pub(super) prefix: String,
}

/// What to do with a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this endpoint, which answers, rejects, or sends the call back.
    Loop { leg: Leg, side: Side },
    /// To the phone; with it to some endpoints, and after it to others.
    Phone {
        together: Vec<Leg>,
        afterwards: Vec<Leg>,
    },
}

/// Routes a call. `callers` and `calleds` are the live registrations of both; `passed` is the side whose endpoint has
/// sent the call back already. The originating side comes before the terminating one.
pub(super) fn route(
    passed: Option<Side>,
    callers: &[Registration],
    calleds: &[Registration],
) -> Route {
    let find = |all: &[Registration], of: [RouteType; 2]| {
        let mut all = all.iter();
        all.find(|one| of.contains(&one.route_type)).cloned()
    };
    if passed.is_none()
        && let Some(loops) = find(callers, [RouteType::Loop, RouteType::LoopMo])
    {
        let leg = Leg {
            sip_uri: loops.sip_uri,
            prefix: loops.mobile_originating_prefix,
        };
        let side = Side::Originating;
        return Route::Loop { leg, side };
    }
    // Where the caller has a registration too, the core uses the originating prefix on this side as well.
    let leg = |registration: &Registration| Leg {
        sip_uri: registration.sip_uri.clone(),
        prefix: match callers.first() {
            Some(callers) => callers.mobile_originating_prefix.clone(),
            None => registration.mobile_terminating_prefix.clone(),
        },
    };
    if passed != Some(Side::Terminating)
        && let Some(loops) = find(calleds, [RouteType::Loop, RouteType::LoopMt])
    {
        let (leg, side) = (leg(&loops), Side::Terminating);
        return Route::Loop { leg, side };
    }
    let all = |of| {
        let found = calleds.iter().filter(move |one| one.route_type == of);
        found.map(leg).collect()
    };
    Route::Phone {
        together: all(RouteType::Fork),
        afterwards: all(RouteType::Fallback),
    }
}

/// A called number that stands with a prefix after its plus: `+0047112334455` of `+47112334455` and `00`.
pub(super) fn prefixed(number: &Msisdn, prefix: &str) -> String {
    let digits = number.e164().trim_start_matches('+');
    format!("+{prefix}{digits}")
}

/// The numbers that a dialled text may mean, the likeliest first: as it is, without its country exit code, or with
/// its plus forgotten.
pub(super) fn numbers_of(dialled: &str) -> impl Iterator<Item = Msisdn> {
    let exit_code = dialled.strip_prefix("00").map(|rest| format!("+{rest}"));
    let texts = [
        Some(dialled.to_owned()),
        exit_code,
        Some(format!("+{dialled}")),
    ];
    texts
        .into_iter()
        .flatten()
        .filter_map(|text| Msisdn::parse(&text).ok())
}

/// What remains of a dialled text when a prefix of at most eight digits is taken off, with that prefix.
pub(super) fn without_prefixes(dialled: &str) -> impl Iterator<Item = (String, Msisdn)> {
    let digits = dialled.strip_prefix('+').unwrap_or(dialled).to_owned();
    (1..=8).filter_map(move |length| {
        let (prefix, rest) = digits.split_at_checked(length)?;
        Some((prefix.to_owned(), Msisdn::parse(&format!("+{rest}")).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use RouteType::{Fallback, Fork, Ingress, Loop, LoopMo, LoopMt};

    fn registration(route_type: RouteType, of: &str) -> Registration {
        Registration {
            client: "c".into(),
            sip_uri: format!("sips:{of}"),
            route_type,
            mobile_originating_prefix: "11".into(),
            mobile_terminating_prefix: "22".into(),
            expires_at: Timestamp::MAX,
        }
    }

    /// The route in short: which endpoint, its prefix and side, or those beside and after the phone.
    fn routed(passed: Option<Side>, callers: &[RouteType], calleds: &[RouteType]) -> String {
        let callers: Vec<_> = callers.iter().map(|of| registration(*of, "mo")).collect();
        let calleds: Vec<_> = calleds.iter().map(|of| registration(*of, "mt")).collect();
        let short = |leg: &Leg| format!("{}/{}", leg.sip_uri, leg.prefix);
        match route(passed, &callers, &calleds) {
            Route::Loop { leg, side } => format!("{side:?} {}", short(&leg)),
            Route::Phone {
                together,
                afterwards,
            } => {
                let all = |legs: &[Leg]| legs.iter().map(short).collect::<Vec<_>>().join(" ");
                format!("phone [{}] [{}]", all(&together), all(&afterwards))
            }
        }
    }

    #[test]
    fn each_route_type_has_its_row() {
        let (back_mo, back_mt) = (Some(Side::Originating), Some(Side::Terminating));
        for (passed, callers, calleds, expected) in [
            (None, &[][..], &[][..], "phone [] []"),
            (None, &[], &[Fallback], "phone [] [sips:mt/22]"),
            (None, &[], &[Fork], "phone [sips:mt/22] []"),
            (
                None,
                &[],
                &[Fork, Fallback],
                "phone [sips:mt/22] [sips:mt/22]",
            ),
            (None, &[], &[Loop], "Terminating sips:mt/22"),
            (None, &[], &[LoopMt], "Terminating sips:mt/22"),
            (None, &[], &[LoopMo], "phone [] []"),
            (None, &[], &[Ingress], "phone [] []"),
            (None, &[Loop], &[], "Originating sips:mo/11"),
            (None, &[LoopMo], &[], "Originating sips:mo/11"),
            (None, &[LoopMt], &[], "phone [] []"),
            (None, &[Fork], &[], "phone [] []"),
            (None, &[Fallback], &[Fallback], "phone [] [sips:mt/11]"),
            (None, &[Loop], &[Loop], "Originating sips:mo/11"),
            (back_mo, &[Loop], &[Loop], "Terminating sips:mt/11"),
            (back_mt, &[Loop], &[Loop], "phone [] []"),
            (back_mo, &[Loop], &[], "phone [] []"),
            (back_mt, &[], &[Loop, Fallback], "phone [] [sips:mt/22]"),
        ] {
            assert_eq!(
                routed(passed, callers, calleds),
                expected,
                "{callers:?} calls {calleds:?}, {passed:?} passed"
            );
        }
    }

    #[test]
    fn a_prefix_stands_after_the_plus_and_comes_off_again() {
        let number = Msisdn::parse("+47112334455").unwrap();
        assert_eq!(prefixed(&number, "00"), "+0047112334455");
        assert_eq!(prefixed(&number, ""), "+47112334455");
        let stripped = without_prefixes("+0047112334455").find(|(prefix, _)| prefix == "00");
        assert_eq!(stripped, Some(("00".to_owned(), number.clone())));
        for dialled in ["+47112334455", "0047112334455", "47112334455"] {
            assert!(
                numbers_of(dialled).any(|found| found == number),
                "{dialled}"
            );
        }
        assert_eq!(numbers_of("anna").count(), 0);
    }
}
