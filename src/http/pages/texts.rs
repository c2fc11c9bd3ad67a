//! Every word of the pages, in one place.

use jiff::Zoned;
use jiff::civil::Date;

use crate::domain::choice;
use crate::domain::{DivertReason, MediaStage};
use crate::http::pages::notice::Notice;
use crate::http::registration::Routing;

/// What a page says that its subject does not change. The templates name each of them.
pub(crate) struct Texts;

impl Texts {
    /// The language of these words.
    pub(crate) const LANGUAGE: &'static str = "en";

    pub(crate) const SERVICE: &'static str = "Voicemail";
    pub(crate) const SKIP: &'static str = "Skip to the content";
    pub(crate) const SIGN_IN: &'static str = "Sign in";
    pub(crate) const SIGN_IN_AGAIN: &'static str = "Sign in again";
    pub(crate) const SIGN_OUT: &'static str = "Sign out";
    pub(crate) const BACK: &'static str = "Back to your messages";
    pub(crate) const TO_START: &'static str = "Go to the start page";

    pub(crate) const WELCOME: &'static str = "Your missed calls, kept and ready to play";
    pub(crate) const WELCOME_LEAD: &'static str = "When you are busy, do not answer or have no coverage, \
        callers can leave a message. You listen to it here, on your phone or computer.";
    pub(crate) const WELCOME_HOW: &'static str = "Your operator confirms your number by a code in an SMS, \
        and asks whether calls that you do not take may come here. That is all.";
    pub(crate) const WELCOME_LEAVE: &'static str =
        "You can leave at any time. Everything of yours is then erased.";
    pub(crate) const NOT_OPEN: &'static str =
        "Signing in is not set up here. Your operator can tell you how to reach your messages.";

    pub(crate) const MESSAGES: &'static str = "Messages";
    pub(crate) const NO_MESSAGES: &'static str = "No messages";
    pub(crate) const NO_MESSAGES_YET: &'static str =
        "When somebody leaves one, it is here at once.";
    pub(crate) const NEW: &'static str = "New";
    pub(crate) const MARK_HEARD: &'static str = "Mark as heard";
    pub(crate) const MARK_NEW: &'static str = "Mark as new";
    pub(crate) const DELETE: &'static str = "Delete";
    pub(crate) const DELETE_SURE: &'static str = "The recording is gone for good.";
    pub(crate) const DELETE_NOW: &'static str = "Delete this message";
    pub(crate) const OLDER: &'static str = "Older messages";
    pub(crate) const NEWEST: &'static str = "Newest messages";
    pub(crate) const MISSED: &'static str = "Calls without a message";
    pub(crate) const UNKNOWN_CALLER: &'static str = "Number withheld";
    pub(crate) const ARRIVED: &'static str = "A new message has arrived.";
    pub(crate) const NOT_DONE: &'static str =
        "That did not work. Check your connection and try again.";
    pub(crate) const USE_ZONE: &'static str = "Show the time of";

    pub(crate) const SIGN_OUT_SURE: &'static str = "Sign out of this browser?";
    pub(crate) const SIGN_OUT_LEAD: &'static str =
        "Callers still leave messages. Sign in again to hear them.";

    pub(crate) const LEAVE: &'static str = "Leave this service";
    pub(crate) const LEAVE_LEAD: &'static str = "Calls that you do not take go back to what your operator \
        did with them before.";
    pub(crate) const LEAVE_TOKENS: &'static str =
        "You are signed out everywhere, and programs that you gave access lose it.";
    pub(crate) const LEAVE_CONSENT: &'static str =
        "Your operator then asks you to take back the consent that you gave.";
    pub(crate) const LEAVE_NOW: &'static str = "Leave now";
    pub(crate) const STAY: &'static str = "Stay";

    pub(crate) const GOING_ON: &'static str = "One last step at your operator";
    pub(crate) const GOING_ON_LEAD: &'static str = "You have left, and your sign-ins here have ended. Your \
        operator still keeps the consent that you gave; take it back there.";
    pub(crate) const GO_ON: &'static str = "Go on to your operator";
}

/// `2 new messages.`
pub(crate) fn unread(count: u32) -> String {
    match count {
        0 => "No new messages.".into(),
        1 => "1 new message.".into(),
        n => format!("{n} new messages."),
    }
}

/// What happens to the data of one who leaves.
pub(crate) fn erased_after(hours: u32) -> String {
    let what = "Your messages, recordings, greeting and settings are erased";
    match hours {
        0 => format!("{what} at once. This cannot be undone."),
        1 => format!("{what} after one hour."),
        hours => format!("{what} after {hours} hours."),
    }
}

/// Whose time is shown.
pub(crate) fn zone_note(zone: &str) -> String {
    match zone {
        choice::DEFAULT_TIME_ZONE => "All times are UTC.".into(),
        zone => {
            let city = zone.rsplit('/').next().unwrap_or(zone).replace('_', " ");
            format!("All times are {city} time.")
        }
    }
}

/// Why the call came to the mailbox.
pub(crate) const fn reason(reason: DivertReason) -> Option<&'static str> {
    match reason {
        DivertReason::Busy => Some("You were busy"),
        DivertReason::NoAnswer => Some("You did not answer"),
        DivertReason::Unreachable => Some("Your phone was off or out of coverage"),
        DivertReason::Unconditional => Some("All calls are forwarded"),
        DivertReason::Unknown => None,
    }
}

/// What of a recording never arrived.
pub(crate) fn lost(ms: u32) -> Option<String> {
    match ms {
        0 => None,
        1..1000 => Some("A short piece of it was lost on the way.".into()),
        ms => Some(format!(
            "Parts of it were lost on the way, {} in all.",
            duration(ms)
        )),
    }
}

/// Why a call left no message.
pub(crate) fn missed(cause: &str, failed_stage: Option<MediaStage>) -> &'static str {
    match (cause, failed_stage) {
        ("too-short", _) => "Said nothing after the beep",
        ("abandoned", _) => "Hung up before the beep",
        ("mailbox-full", _) => "Your mailbox was full",
        ("no-media", Some(MediaStage::Ice | MediaStage::Dtls)) => {
            "No sound could be exchanged with the caller's phone"
        }
        ("no-media", Some(MediaStage::Rtp) | None) => "No sound came from the caller's phone",
        _ => "The call broke off",
    }
}

/// How long a recording is: `42 s`, `1 min 5 s`.
pub(crate) fn duration(ms: u32) -> String {
    let seconds = ms.div_ceil(1000);
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// A moment as people say it on the day `today`: `Today, 14:05`.
pub(crate) fn moment(at: &Zoned, today: Date) -> String {
    let day = at.date();
    let format = if day == today {
        "Today, %H:%M"
    } else if today.yesterday().is_ok_and(|yesterday| day == yesterday) {
        "Yesterday, %H:%M"
    } else if day.year() == today.year() {
        "%A %-d %B, %H:%M"
    } else {
        "%-d %B %Y, %H:%M"
    };
    at.strftime(format).to_string()
}

/// A moment within a sentence: `today, 14:05`.
fn within(moment: &str) -> String {
    let (day, rest) = moment.split_at(moment.find(',').unwrap_or_default());
    match day {
        "Today" | "Yesterday" => format!("{}{rest}", day.to_ascii_lowercase()),
        _ => moment.to_owned(),
    }
}

/// How calls come to the mailbox, in a headline and a text. `clock` tells a moment as people say it.
pub(crate) fn routing(
    routing: &Routing,
    clock: impl Fn(crate::domain::Timestamp) -> String,
) -> (&'static str, String) {
    const WHEN: &str = "When you are busy, do not answer or have no coverage, callers hear a greeting \
        and can leave a message.";
    let clock = |at| within(&clock(at));
    match routing {
        Routing::Provisioned => ("Calls that you do not take come here", WHEN.into()),
        Routing::Active(until) => (
            "Calls that you do not take come here",
            format!(
                "{WHEN} Your operator has confirmed this until {}; it is renewed by itself.",
                clock(*until)
            ),
        ),
        Routing::Refreshing(until) => (
            "Calls that you do not take come here",
            format!(
                "{WHEN} Your operator's network is being asked to go on after {}; nothing is for you to do.",
                clock(*until)
            ),
        ),
        Routing::BeingSetUp => (
            "Your voicemail is being set up",
            "Your operator's network is being told to send calls here. It takes a moment.".into(),
        ),
        Routing::Unreachable { since: None } => (
            "Your voicemail will be set up later",
            "Your operator's network does not answer just now. Your sign-in is kept: it is set up as \
             soon as the network answers, and nothing is for you to do."
                .into(),
        ),
        Routing::Unreachable { since: Some(at) } => (
            "Calls do not come here just now",
            format!(
                "Your operator's network has not answered since {}. It is asked again and again, and calls \
                 come here as soon as it answers. Nothing is for you to do.",
                clock(*at)
            ),
        ),
        Routing::Refused { reason } => {
            let why = reason.as_deref().map(str::trim).unwrap_or_default();
            let why = why.trim_end_matches('.');
            let says = if why.is_empty() {
                "It gives no reason.".to_owned()
            } else {
                format!("It says: \u{201c}{why}\u{201d}.")
            };
            (
                "Your operator's network refuses to send calls here",
                format!(
                    "{says} Sign in again to try once more. If it stays like this, ask your operator, and \
                     tell what it says here."
                ),
            )
        }
        Routing::ConsentLost => (
            "Calls no longer come here",
            "You have taken back your consent at your operator, or it has ended. Sign in again to give \
             it anew."
                .into(),
        ),
    }
}

/// A notice in words: a headline, what happened and what to do.
pub(crate) const fn notice(notice: Notice) -> (&'static str, &'static [&'static str]) {
    match notice {
        Notice::Denied => (
            "You did not agree",
            &[
                "Your operator sends calls here only if you agree. You said no, so nothing has changed.",
                "If that was not what you wanted, sign in again and agree.",
            ],
        ),
        Notice::NotVerified => (
            "Your number is not confirmed",
            &[
                "Your operator knows your number, but has not confirmed that it is yours.",
                "Sign in again and enter the code of the SMS. If that does not help, ask your operator.",
            ],
        ),
        Notice::NoNumber => (
            "Your operator did not tell your number",
            &[
                "Without your number no calls can be sent here. Nothing has changed.",
                "Sign in again and allow your number to be shared. If that does not help, ask your operator.",
            ],
        ),
        Notice::Forged => (
            "This sign-in was not begun here",
            &[
                "You came back from your operator, but not with a sign-in that this browser began. Perhaps \
                 it was begun in another browser or under another address of this service, or cookies \
                 are off.",
                "Sign in again, in one browser from beginning to end.",
            ],
        ),
        Notice::Expired => (
            "That took too long",
            &[
                "A sign-in must be done within ten minutes, and works only once.",
                "Sign in again; it takes a minute.",
            ],
        ),
        Notice::IssuerDown => (
            "Your operator's sign-in does not answer",
            &[
                "Nothing has changed, and it is not your fault.",
                "Try again in a few minutes.",
            ],
        ),
        Notice::IssuerRefused => (
            "Your operator refused the sign-in",
            &[
                "Nothing has changed. The log of this service shows why.",
                "Try again. If it stays like this, tell your operator.",
            ],
        ),
        Notice::NotTrusted => (
            "Your operator's answer could not be believed",
            &[
                "It failed a check that keeps your messages safe, so you are not signed in.",
                "Try again. If it stays like this, tell your operator.",
            ],
        ),
        Notice::NotOpen => ("Signing in is not set up here", &[Texts::NOT_OPEN]),
        Notice::SignedOut => (
            "You are signed out",
            &[
                "Your session has ended, so nothing was done.",
                "Sign in again, then repeat it.",
            ],
        ),
        Notice::ForeignForm => (
            "That was not done",
            &[
                "The request did not come from a page of your present session here, so it was not trusted. \
                 That also happens with a page that was open for long.",
                "Go to your messages and do it there.",
            ],
        ),
        Notice::BadForm => (
            "That could not be read",
            &[
                "The form came incomplete or too late.",
                "Go back and try again.",
            ],
        ),
        Notice::Gone => (
            "This message is gone",
            &["It was deleted, or never was in this mailbox."],
        ),
        Notice::NotHere => (
            "There is nothing at this address",
            &["Perhaps the link is incomplete."],
        ),
        Notice::Fault => (
            "Something went wrong here",
            &[
                "It is not your fault, and it has been noted.",
                "Try again in a moment.",
            ],
        ),
        Notice::Busy => (
            "The service is busy",
            &["What you asked for was not done.", "Try again in a moment."],
        ),
        Notice::Left => (
            "You have left",
            &[
                "You are signed out everywhere, and calls no longer come here.",
                "If you change your mind, sign in again.",
            ],
        ),
        Notice::LeftAndRevoked => (
            "You have left",
            &[
                "You are signed out everywhere, calls no longer come here, and your operator has your \
                 consent no more.",
                "If you change your mind, sign in again.",
            ],
        ),
        Notice::LeftNotRevoked => (
            "You have left",
            &[
                "You are signed out everywhere, and calls no longer come here.",
                "Your operator says that the consent was not taken back. It does nothing any more; you can \
                 take it back on your operator's own pages.",
            ],
        ),
        Notice::UnknownLeaving => (
            "This link is not valid any more",
            &["It ends the leaving of a subscriber, once, and within an hour or so."],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_by_its_day() {
        let at = |text: &str| text.parse::<Zoned>().unwrap();
        let today = at("2026-11-23T05:04[Europe/Oslo]").date();
        for (then, told) in [
            ("2026-11-23T04:05[Europe/Oslo]", "Today, 04:05"),
            ("2026-11-22T23:59[Europe/Oslo]", "Yesterday, 23:59"),
            ("2026-11-02T08:00[Europe/Oslo]", "Monday 2 November, 08:00"),
            ("2025-12-31T12:30[Europe/Oslo]", "31 December 2025, 12:30"),
        ] {
            assert_eq!(moment(&at(then), today), told);
        }
    }

    #[test]
    fn a_moment_within_a_sentence_has_no_capital_that_is_not_a_names() {
        for (moment, told) in [
            ("Today, 04:05", "today, 04:05"),
            ("Monday 2 November, 08:00", "Monday 2 November, 08:00"),
            ("", ""),
        ] {
            assert_eq!(within(moment), told);
        }
    }

    #[test]
    fn a_length_is_told_in_minutes_and_seconds() {
        for (ms, told) in [
            (1, "1 s"),
            (1000, "1 s"),
            (59_001, "1 min"),
            (65_000, "1 min 5 s"),
        ] {
            assert_eq!(duration(ms), told, "{ms}");
        }
    }

    #[test]
    fn only_what_was_lost_is_spoken_of() {
        assert_eq!(lost(0), None);
        assert!(lost(20).unwrap().starts_with("A short piece"));
        assert!(lost(2_400).unwrap().contains(", 3 s in all"));
    }

    #[test]
    fn a_call_without_sound_tells_which_way_it_was_missing() {
        let both = missed("no-media", Some(MediaStage::Dtls));
        let one = missed("no-media", Some(MediaStage::Rtp));
        assert!(both.contains("exchanged") && one.contains("came from"));
        assert_eq!(missed("no-media", None), one);
    }

    #[test]
    fn a_reason_of_the_core_is_quoted_once() {
        let refused = Routing::Refused {
            reason: Some(" no such number. ".into()),
        };
        let (_, text) = routing(&refused, |_| unreachable!());
        assert!(
            text.starts_with("It says: \u{201c}no such number\u{201d}. Sign in"),
            "{text}"
        );
        let (_, text) = routing(&Routing::Refused { reason: None }, |_| unreachable!());
        assert!(text.starts_with("It gives no reason. "), "{text}");
    }
}
