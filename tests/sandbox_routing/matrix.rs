//! Every route type has its rows: whose registration it is, what the phone and the endpoint do, and what the caller
//! gets.

use aftertone::mobile_core::pb::wgtwo::sipbreakout::v1::RouteType;
use aftertone::sip::Transport;

use crate::agents::{Agent, Manner, Outcome, call};
use crate::authorities;
use crate::support::core::{ANNA, BJARNE, Core};

use Manner::{Answers, Refuses, Rings, SendsBack};
use RouteType::{Fallback, Fork, Ingress, Loop, LoopMo, LoopMt};

/// Anna calls Bjarne.
struct Row {
    /// Whose registration it is; nobody's in the first rows.
    of: &'static str,
    route: RouteType,
    /// Bjarne's phone; none is registered where that is `None`.
    phone: Option<Manner>,
    /// The endpoint; nobody listens there where that is `None`.
    endpoint: Option<Manner>,
    expected: Outcome,
}

fn row(
    of: &'static str,
    route: RouteType,
    phone: Option<Manner>,
    endpoint: Option<Manner>,
    expected: Outcome,
) -> Row {
    Row {
        of,
        route,
        phone,
        endpoint,
        expected,
    }
}

fn by(name: &str) -> Outcome {
    Outcome::AnsweredBy(name.to_owned())
}

const fn refused(status: u16) -> Outcome {
    Outcome::Refused(status)
}

/// Runs rows one after the other, each in a sandbox of its own.
async fn run(rows: Vec<Row>) {
    for (number, row) in rows.into_iter().enumerate() {
        let core = Core::with(|config, dir| {
            authorities::write(
                dir,
                &[("endpoint", &["localhost"]), ("phone", &["localhost"])],
            );
            config.tls_ca = Some(dir.join("ca.pem"));
            config.ring_timeout_ms = 300;
        })
        .await;
        let manner = row.endpoint.unwrap_or(Answers);
        let endpoint =
            Agent::start("endpoint", manner, Transport::Tls, core.dir.path(), &core).await;
        let port = match row.endpoint {
            Some(_) => endpoint.port(),
            None => closed_port().await,
        };
        core.add(row.of, &format!("sips:localhost:{port}"), row.route)
            .await;
        let mut phone = None;
        if let Some(manner) = row.phone {
            phone = Some(Agent::phone(&core, BJARNE, manner, Transport::Udp).await);
        }
        let anna = Agent::phone(&core, ANNA, Answers, Transport::Udp).await;
        let outcome = call(&anna, &core, Transport::Udp, ANNA, BJARNE).await;
        assert_eq!(
            outcome, row.expected,
            "row {number}: {:?} of {}, phone {:?}, endpoint {:?}",
            row.route, row.of, row.phone, row.endpoint
        );
        drop(phone);
    }
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn fallback() {
    run(vec![
        row(BJARNE, Fallback, Some(Answers), Some(Answers), by("phone")),
        row(
            BJARNE,
            Fallback,
            Some(Refuses(486)),
            Some(Answers),
            by("endpoint"),
        ),
        row(
            BJARNE,
            Fallback,
            Some(Refuses(603)),
            Some(Answers),
            by("endpoint"),
        ),
        row(
            BJARNE,
            Fallback,
            Some(Refuses(480)),
            Some(Answers),
            by("endpoint"),
        ),
        row(BJARNE, Fallback, Some(Rings), Some(Answers), by("endpoint")),
        row(BJARNE, Fallback, None, Some(Answers), by("endpoint")),
        row(
            BJARNE,
            Fallback,
            Some(Refuses(486)),
            Some(Refuses(503)),
            refused(486),
        ),
        row(BJARNE, Fallback, Some(Refuses(486)), None, refused(486)),
        row(
            BJARNE,
            Fallback,
            Some(Rings),
            Some(Refuses(404)),
            refused(404),
        ),
        row(BJARNE, Fallback, Some(Rings), None, refused(480)),
        row(BJARNE, Fallback, None, None, refused(500)),
        row(
            BJARNE,
            Fallback,
            Some(Refuses(488)),
            Some(Answers),
            refused(488),
        ),
        // A registration of the caller's is for calls to him.
        row(
            ANNA,
            Fallback,
            Some(Refuses(486)),
            Some(Answers),
            refused(486),
        ),
    ])
    .await;
}

#[tokio::test]
async fn fork() {
    run(vec![
        row(BJARNE, Fork, Some(Answers), Some(Rings), by("phone")),
        row(BJARNE, Fork, Some(Rings), Some(Answers), by("endpoint")),
        row(
            BJARNE,
            Fork,
            Some(Refuses(486)),
            Some(Answers),
            by("endpoint"),
        ),
        row(BJARNE, Fork, None, Some(Answers), by("endpoint")),
        row(BJARNE, Fork, Some(Answers), None, by("phone")),
        row(
            BJARNE,
            Fork,
            Some(Refuses(486)),
            Some(Refuses(480)),
            refused(486),
        ),
        row(ANNA, Fork, Some(Answers), Some(Answers), by("phone")),
    ])
    .await;
}

#[tokio::test]
async fn looping() {
    run(vec![
        row(BJARNE, Loop, Some(Answers), Some(SendsBack), by("phone")),
        row(
            BJARNE,
            Loop,
            Some(Refuses(486)),
            Some(SendsBack),
            refused(486),
        ),
        row(BJARNE, Loop, None, Some(SendsBack), refused(480)),
        row(BJARNE, Loop, Some(Answers), Some(Answers), by("endpoint")),
        row(
            BJARNE,
            Loop,
            Some(Answers),
            Some(Refuses(403)),
            refused(403),
        ),
        row(BJARNE, Loop, Some(Answers), None, refused(500)),
        row(ANNA, Loop, Some(Answers), Some(SendsBack), by("phone")),
        row(ANNA, Loop, Some(Answers), Some(Answers), by("endpoint")),
    ])
    .await;
}

#[tokio::test]
async fn looping_one_way() {
    run(vec![
        row(ANNA, LoopMo, Some(Answers), Some(SendsBack), by("phone")),
        row(
            ANNA,
            LoopMo,
            Some(Answers),
            Some(Refuses(403)),
            refused(403),
        ),
        row(
            BJARNE,
            LoopMo,
            Some(Answers),
            Some(Refuses(403)),
            by("phone"),
        ),
        row(BJARNE, LoopMt, Some(Answers), Some(SendsBack), by("phone")),
        row(
            BJARNE,
            LoopMt,
            Some(Answers),
            Some(Refuses(403)),
            refused(403),
        ),
        row(ANNA, LoopMt, Some(Answers), Some(Refuses(403)), by("phone")),
    ])
    .await;
}

#[tokio::test]
async fn ingress_changes_nothing_for_phones() {
    run(vec![
        row(BJARNE, Ingress, Some(Answers), Some(Answers), by("phone")),
        row(
            BJARNE,
            Ingress,
            Some(Refuses(486)),
            Some(Answers),
            refused(486),
        ),
        row(BJARNE, Ingress, None, Some(Answers), refused(480)),
    ])
    .await;
}
