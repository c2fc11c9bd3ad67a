use std::time::Duration;

use std::mem::size_of;

use super::*;
use crate::domain::Msisdn;

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MS: i64 = 3_600_000;
const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn schedule() -> Schedule {
    Schedule::new(Limits::per_minute(60_000), [7; 32])
}

fn at(seconds: i64) -> Timestamp {
    START.plus_millis(seconds * 1000)
}

fn wanted(seq: i64) -> Registration {
    Registration {
        seq,
        subscriber: SubscriberId::from_bytes([u8::try_from(seq % 251).unwrap(); 16]),
        number: Msisdn::parse("+4799990001").unwrap(),
        sip_uri: "sips:voicemail.example.com".into(),
        state: RegistrationState::Wanted,
        expires_at: None,
        next_attempt_at: START,
        failures: 0,
        reason: None,
    }
}

fn active(seq: i64, due_in_s: i64, ends_in_s: i64) -> Registration {
    Registration {
        state: RegistrationState::Active,
        expires_at: Some(at(ends_in_s)),
        next_attempt_at: at(due_in_s),
        ..wanted(seq)
    }
}

fn registered() -> Outcome {
    Outcome::Registered { life: HOUR }
}

fn core_failed() -> Outcome {
    Outcome::CoreFailed("no answer".into())
}

/// Every job that is given at once, each ended in success.
fn order(schedule: &mut Schedule, now: Timestamp) -> Vec<i64> {
    let mut order = Vec::new();
    while let Some(job) = schedule.next(now) {
        order.push(job.seq);
        schedule.finished(job.id, registered(), now);
    }
    order
}

#[test]
fn a_registration_is_renewed_at_about_half_its_life() {
    let mut schedule = schedule();
    assert!(schedule.insert(&wanted(1), START));
    assert!(!schedule.insert(&wanted(1), START));
    let mut now = START;
    for _ in 0..50 {
        let job = schedule.next(now).unwrap();
        assert_eq!(schedule.next(now), None);
        let change = schedule.finished(job.id, registered(), now).unwrap();
        assert_eq!(change.state, RegistrationState::Active);
        assert_eq!(change.expires_at, Some(now.plus_millis(HOUR_MS)));
        let wait = change.next_attempt_at.as_millis() - now.as_millis();
        assert!(
            (HOUR_MS * 2 / 5..=HOUR_MS * 3 / 5).contains(&wait),
            "{wait}"
        );
        assert_eq!(schedule.next_timeout(), Some(change.next_attempt_at));
        assert_eq!(
            schedule.next(change.next_attempt_at.plus_millis(-1)),
            None,
            "not before its time"
        );
        now = change.next_attempt_at;
    }
}

#[test]
fn what_is_taken_over_keeps_its_place_and_what_is_overdue_is_spread() {
    let mut schedule = schedule();
    schedule.insert(&active(1, 600, 2400), START);
    assert_eq!(schedule.next_timeout(), Some(at(600)));
    // Due ten minutes ago, half an hour left.
    for seq in 2..1000 {
        schedule.insert(&active(seq, -600, 1800), START);
    }
    let mut given = 0;
    for second in 0..=1350 {
        let jobs = order(&mut schedule, at(second)).len();
        assert!(jobs < 12, "{jobs} in second {second}");
        given += jobs;
    }
    assert_eq!(given, 999);
}

#[test]
fn who_is_waited_for_comes_first_then_by_turns_those_about_to_lapse_and_those_who_have() {
    let mut schedule = schedule();
    for (seq, due_in_s, ends_in_s) in [
        (1, 0, 3000),
        (2, 0, 2000),
        (3, 0, 90),
        (4, 0, 60),
        (5, -900, -300),
        (6, -900, -600),
        (7, -900, -100),
    ] {
        // In backoff until now, so that they are not spread.
        let registration = Registration {
            next_attempt_at: at(due_in_s),
            ..active(seq, due_in_s, ends_in_s)
        };
        schedule.insert(&registration, START.plus_millis(-1_000_000));
    }
    schedule.insert(&wanted(8), START.plus_millis(-1_000_000));
    assert!(schedule.hurry(8));
    assert!(!schedule.hurry(9));
    assert_eq!(order(&mut schedule, START), [8, 4, 6, 3, 5, 7, 2, 1]);
}

#[test]
fn a_failure_is_tried_again_ever_later_and_at_least_every_five_minutes() {
    let mut schedule = schedule();
    schedule.insert(&wanted(1), START);
    let mut now = START;
    for failures in 1..=30 {
        let job = schedule.next(now).unwrap();
        let outcome = Outcome::Postponed("no token".into());
        let change = schedule.finished(job.id, outcome, now).unwrap();
        assert_eq!(change.failures, failures);
        assert_eq!(change.state, RegistrationState::Wanted);
        assert_eq!(change.reason.as_deref(), Some("no token"));
        let wait = change.next_attempt_at.as_millis() - now.as_millis();
        let longest = (2000_i64 << (failures - 1).min(20)).min(300_000);
        assert!((longest / 2..=longest).contains(&wait), "{failures} {wait}");
        now = change.next_attempt_at;
    }
    let job = schedule.next(now).unwrap();
    let change = schedule.finished(job.id, registered(), now).unwrap();
    assert_eq!((change.failures, change.reason), (0, None));
}

#[test]
fn what_the_core_refuses_is_asked_for_again_ever_more_rarely_and_stays_alive_until_its_end() {
    let mut schedule = schedule();
    schedule.insert(&active(1, 0, 1800), START.plus_millis(-1));
    let job = schedule.next(START).unwrap();
    let refused = Outcome::Refused("no such number".into());
    let change = schedule.finished(job.id, refused.clone(), START).unwrap();
    assert_eq!(change.state, RegistrationState::Refused);
    assert_eq!(change.expires_at, Some(at(1800)));
    assert_eq!(schedule.census(START).live, 1);
    assert_eq!(schedule.census(at(1801)).refused, 1);
    let mut now = change.next_attempt_at;
    // Once more while it still lives: a refusal may be a mistake that is soon mended.
    assert!((at(150)..=at(600)).contains(&now), "{now}");
    for _ in 0..10 {
        let job = schedule.next(now).unwrap();
        let change = schedule.finished(job.id, refused.clone(), now).unwrap();
        let wait = change.next_attempt_at.as_millis() - now.as_millis();
        assert!((HOUR_MS / 20..=8 * HOUR_MS).contains(&wait), "{wait}");
        now = change.next_attempt_at;
    }
    let job = schedule.next(now).unwrap();
    let change = schedule.finished(job.id, refused, now).unwrap();
    let wait = change.next_attempt_at.as_millis() - now.as_millis();
    assert!(wait >= 4 * HOUR_MS, "{wait}");
}

#[test]
fn lost_consent_and_an_unwanted_registration_end_it() {
    let mut schedule = schedule();
    schedule.insert(&active(1, 0, 1800), START.plus_millis(-1));
    schedule.insert(&active(2, 0, 1900), START.plus_millis(-1));
    let job = schedule.next(START).unwrap();
    let lost = Outcome::ConsentLost("invalid grant".into());
    let change = schedule.finished(job.id, lost, START).unwrap();
    assert_eq!(change.state, RegistrationState::ConsentLost);
    assert_eq!(change.reason.as_deref(), Some("invalid grant"));
    let job = schedule.next(START).unwrap();
    assert_eq!(schedule.finished(job.id, Outcome::Gone, START), None);
    assert!(schedule.is_empty());
    assert_eq!(schedule.next_timeout(), None);
    let gone = Registration {
        state: RegistrationState::ConsentLost,
        ..wanted(3)
    };
    assert!(!schedule.insert(&gone, START));
}

#[test]
fn an_end_that_comes_twice_late_or_for_what_was_removed_changes_nothing() {
    let mut schedule = schedule();
    schedule.insert(&wanted(1), START);
    schedule.insert(&wanted(2), START);
    assert_eq!(schedule.finished(99, registered(), START), None);
    let first = schedule.next(START).unwrap();
    assert!(schedule.finished(first.id, core_failed(), START).is_some());
    assert_eq!(schedule.finished(first.id, registered(), START), None);
    let second = schedule.next(START).unwrap();
    schedule.remove(second.seq);
    assert_eq!(schedule.finished(second.id, registered(), START), None);
    assert_eq!(schedule.len(), 1);
    assert_eq!(schedule.next(at(10)).unwrap().seq, first.seq);
}

#[test]
fn a_core_that_is_down_gets_one_probe_at_a_time_and_what_failed_does_not_wait_when_it_is_back() {
    let mut schedule = schedule();
    for seq in 1..=5 {
        schedule.insert(&wanted(seq), START);
    }
    let mut now = START;
    while !schedule.is_core_down() {
        now = now.max(schedule.next_timeout().unwrap());
        let job = schedule.next(now).unwrap();
        now = now.plus_millis(500);
        schedule.finished(job.id, core_failed(), now);
    }
    for _ in 0..20 {
        let probe_at = schedule.next_timeout().unwrap();
        assert!(probe_at.as_millis() - now.as_millis() <= 10_000);
        let job = schedule.next(probe_at).unwrap();
        assert_eq!(schedule.next(probe_at), None, "one at a time");
        assert_eq!(schedule.next_timeout(), None, "only its end can change it");
        now = probe_at.plus_millis(500);
        schedule.finished(job.id, core_failed(), now);
    }
    now = schedule.next_timeout().unwrap();
    let job = schedule.next(now).unwrap();
    schedule.finished(job.id, registered(), now);
    assert!(!schedule.is_core_down());
    assert_eq!(order(&mut schedule, now).len(), 4, "all others, at once");
    assert_eq!(schedule.census(now).live, 5);
}

#[test]
fn after_an_outage_what_is_in_flight_grows_with_success() {
    let mut schedule = schedule();
    for seq in 1..=500 {
        schedule.insert(&wanted(seq), START);
    }
    let mut now = START;
    while !schedule.is_core_down() {
        let job = schedule.next(now).unwrap();
        now = now.plus_millis(700);
        schedule.finished(job.id, core_failed(), now);
    }
    now = now.plus_millis(10_000);
    let mut under_way = vec![schedule.next(now).unwrap()];
    for window in [2, 4, 8, 16] {
        for job in under_way.drain(..) {
            schedule.finished(job.id, registered(), now);
        }
        under_way.extend(std::iter::from_fn(|| schedule.next(now)));
        assert_eq!(under_way.len(), window);
    }
}

#[test]
fn gaps_are_closed_when_most_have_left() {
    let mut schedule = schedule();
    for seq in 1..=1000 {
        schedule.insert(&wanted(seq), START);
    }
    for seq in 1..=900 {
        schedule.remove(seq);
        schedule.remove(seq);
    }
    assert_eq!(schedule.len(), 100);
    assert!(schedule.entries.len() < 400);
    assert_eq!(order(&mut schedule, START).len(), 100);
    assert_eq!(schedule.census(START).live, 100);
}

#[test]
fn a_registration_is_small() {
    assert!(size_of::<Entry>() <= 48, "{}", size_of::<Entry>());
}
