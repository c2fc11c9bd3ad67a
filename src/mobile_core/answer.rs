//! What an answer of the core means. Nothing in it is believed unchecked.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

use crate::mobile_core::CoreError;
use crate::mobile_core::pb::wgtwo::sipbreakout::{v0, v1};

/// How long a registration lives where the answer does not say (documented for v0 and v1).
pub(super) const LIFE: Duration = Duration::from_secs(3600);
/// A longer life is cut to this: whoever renews too soon loses nothing.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A shorter one could not be kept.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_TEXT: usize = 200;

/// The life that an upsert in v1 gave.
pub(super) fn of_upsert_v1(answer: &v1::UpsertRegistrationResponse) -> Result<Duration, CoreError> {
    accepted_v1(answer.status_code, &answer.error_message)?;
    let Some(life) = answer.time_to_live else {
        return Ok(LIFE);
    };
    // By hand: the conversion of prost-types 0.14 panics on the least of all seconds.
    match (u64::try_from(life.seconds), u32::try_from(life.nanos)) {
        (Ok(seconds), Ok(nanos)) if seconds >= SHORTEST_LIFE.as_secs() && nanos < 1_000_000_000 => {
            Ok(Duration::new(seconds, nanos).min(LONGEST_LIFE))
        }
        _ => Err(CoreError::Nonsense("a life of less than a second".into())),
    }
}

pub(super) fn of_delete_v1(answer: &v1::DeleteRegistrationResponse) -> Result<(), CoreError> {
    accepted_v1(answer.status_code, &answer.error_message)
}

fn accepted_v1(code: i32, message: &str) -> Result<(), CoreError> {
    match v1::StatusCode::try_from(code) {
        Ok(v1::StatusCode::Ok) => Ok(()),
        Ok(v1::StatusCode::NotAcceptable) => Err(CoreError::NotAcceptable(told(message))),
        Ok(v1::StatusCode::Unspecified) => Err(CoreError::Nonsense("no status".into())),
        Err(_) => Err(CoreError::Nonsense(format!("the unknown status {code}"))),
    }
}

/// OK is 0 in v0, which on the wire is the same as an empty status; no status at all is not.
pub(super) fn of_v0(answer: &v0::RegistrationResponse) -> Result<Duration, CoreError> {
    let Some(status) = &answer.status else {
        return Err(CoreError::Nonsense("no status".into()));
    };
    match v0::status::Code::try_from(status.code) {
        Ok(v0::status::Code::Ok) => Ok(LIFE),
        Ok(v0::status::Code::NotAcceptable) => Err(CoreError::NotAcceptable(told(&status.message))),
        Err(_) => Err(CoreError::Nonsense(format!(
            "the unknown status {}",
            status.code
        ))),
    }
}

/// What a gRPC status means.
pub(super) fn of_status(status: &Status) -> CoreError {
    let text = told(&with_causes(status));
    match status.code() {
        Code::Unauthenticated => CoreError::Unauthenticated,
        Code::PermissionDenied => CoreError::Forbidden(text),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => {
            CoreError::NotAcceptable(text)
        }
        Code::DeadlineExceeded | Code::Cancelled => CoreError::Deadline,
        Code::Unimplemented => CoreError::Nonsense(format!(
            "it does not know the method, so that core.api may be another{}",
            if text.is_empty() {
                String::new()
            } else {
                format!(" ({text})")
            }
        )),
        Code::Ok => CoreError::Nonsense("success instead of an answer".into()),
        // Said by the client itself of an answer that is too long.
        Code::OutOfRange => CoreError::Nonsense(text),
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss => CoreError::Unavailable(text),
    }
}

/// What the status says and, where it is our own about a connection, why.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = if text.is_empty() {
                said
            } else {
                format!("{text}: {said}")
            };
        }
        cause = error.source();
    }
    text
}

/// A text of the core as it may be shown and logged: short, on one line, and without numbers: of
/// five and more digits in a row the last two are left.
pub(super) fn told(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(LONGEST_TEXT));
    let mut digits = String::new();
    for c in text.chars().take(LONGEST_TEXT).chain(['\n']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if digits.len() >= 5 {
            shown.push('…');
            shown.push_str(&digits[digits.len() - 2..]);
        } else {
            shown.push_str(&digits);
        }
        digits.clear();
        shown.push(if c.is_control() { ' ' } else { c });
    }
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upserted(code: i32, life: Option<(i64, i32)>) -> Result<Duration, CoreError> {
        of_upsert_v1(&v1::UpsertRegistrationResponse {
            status_code: code,
            error_message: "no such number +4799990001".into(),
            time_to_live: life.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
        })
    }

    #[test]
    fn a_life_is_believed_where_it_can_be() {
        assert_eq!(upserted(1, Some((3600, 0))), Ok(Duration::from_secs(3600)));
        assert_eq!(
            upserted(1, Some((1, 500_000_000))),
            Ok(Duration::from_millis(1500))
        );
        assert_eq!(upserted(1, None), Ok(LIFE));
        assert_eq!(upserted(1, Some((i64::MAX, 0))), Ok(LONGEST_LIFE));
        for nonsense in [
            (0, 0),
            (0, 999_999_999),
            (-3600, 0),
            (0, -1),
            (i64::MIN, i32::MIN),
        ] {
            let answer = upserted(1, Some(nonsense));
            assert!(
                matches!(answer, Err(CoreError::Nonsense(_))),
                "{nonsense:?}: {answer:?}"
            );
        }
    }

    #[test]
    fn only_the_status_ok_is_a_success() {
        for (code, name) in [
            (0, "nonsense"),
            (2, "not-acceptable"),
            (3, "nonsense"),
            (-1, "nonsense"),
        ] {
            assert_eq!(
                upserted(code, Some((3600, 0))).unwrap_err().as_str(),
                name,
                "{code}"
            );
        }
        let delete = v1::DeleteRegistrationResponse::default();
        assert_eq!(of_delete_v1(&delete).unwrap_err().as_str(), "nonsense");
    }

    #[test]
    fn in_v0_an_empty_status_is_ok_and_a_missing_one_is_not() {
        let answer = |status| of_v0(&v0::RegistrationResponse { status });
        assert_eq!(answer(Some(v0::Status::default())), Ok(LIFE));
        assert_eq!(answer(None).unwrap_err().as_str(), "nonsense");
        let refused = v0::Status {
            code: 1,
            message: "no".into(),
        };
        assert_eq!(
            answer(Some(refused)),
            Err(CoreError::NotAcceptable("no".into()))
        );
        let unknown = v0::Status {
            code: 7,
            message: String::new(),
        };
        assert_eq!(answer(Some(unknown)).unwrap_err().as_str(), "nonsense");
    }

    #[test]
    fn every_grpc_status_is_an_error_of_one_kind() {
        for code in 0..=16 {
            let code = Code::from(code);
            let error = of_status(&Status::new(code, "said"));
            let expected = match code {
                Code::Unauthenticated => "unauthenticated",
                Code::PermissionDenied => "forbidden",
                Code::DeadlineExceeded | Code::Cancelled => "deadline",
                Code::Unimplemented | Code::Ok | Code::OutOfRange => "nonsense",
                Code::Unavailable
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Internal
                | Code::Unknown
                | Code::DataLoss => "unavailable",
                _ => "not-acceptable",
            };
            assert_eq!(error.as_str(), expected, "{code:?}");
        }
    }

    #[test]
    fn texts_of_the_core_are_short_and_show_no_number() {
        let Err(CoreError::NotAcceptable(text)) = upserted(2, None) else {
            panic!("refused");
        };
        assert_eq!(text, "no such number +…01");
        assert_eq!(told("code 1234\r\nnext 0012345678"), "code 1234  next …78");
        assert!(told(&"é".repeat(5000)).chars().count() <= LONGEST_TEXT);
        assert_eq!(told(""), "");
    }
}
