//! What strangers may send: nothing of it may panic, and nothing may stay.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::sandbox::sip_core::proxy::Output;
use crate::sandbox::sip_core::proxy::tests::bench;
use crate::sandbox::sip_core::proxy::tests::bench::{
    ANNAS, BJARNE, BJARNES, Bench, ENDPOINT, Invite, answered, flow, in_dialog, last_response,
    request,
};
use crate::sandbox::world::RouteType;

/// Feeds bytes and empties the proxy; lookups and connections are left to fail.
fn feed(bench: &mut Bench, port: u16, bytes: &Bytes) {
    let now = bench.now;
    bench.proxy.handle_datagram(now, flow(port), bytes);
    settle(bench);
}

fn settle(bench: &mut Bench) {
    while let Some(output) = bench.proxy.poll_output() {
        match output {
            Output::Resolve { id, .. } => bench.proxy.resolved(bench.now, id, Vec::new()),
            Output::Connect { id, .. } => bench.proxy.connect_failed(bench.now, id),
            Output::Send { .. } | Output::Event(_) => {}
        }
    }
}

/// Lets everything come to its end; nothing is left then.
fn nothing_stays(bench: &mut Bench, what: &str) {
    let end = bench.now + Duration::from_secs(400);
    while let Some(next) = bench.proxy.next_timeout().filter(|next| *next <= end) {
        bench.now = bench.now.max(next);
        bench.proxy.handle_timeout(bench.now);
        settle(bench);
    }
    bench.now = end;
    let counts = bench.proxy.counts();
    let left = (
        counts.servers,
        counts.clients,
        counts.contexts,
        counts.questions,
    );
    assert_eq!(left, (0, 0, 0, 0), "{what}");
}

#[test]
fn torture_messages_do_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for folder in ["rfc4475", "rfc4475_more"] {
        for entry in std::fs::read_dir(corpus.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "dat") {
                let mut bench = Bench::new();
                let bytes = std::fs::read(&path).unwrap().into();
                feed(&mut bench, ANNAS, &bytes);
                nothing_stays(&mut bench, &path.display().to_string());
                count += 1;
            }
        }
    }
    assert!(count > 40, "the corpus is there");
}

/// The messages of a call that goes to voicemail, with what comes before it.
fn messages() -> Vec<(u16, String)> {
    let mut bench = Bench::new();
    bench.register(BJARNE, BJARNES);
    bench.table.add(BJARNE, RouteType::Fallback, ENDPOINT);
    let call = Invite::new("call");
    let challenged = last_response(&bench.send(ANNAS, call.text("")), ANNAS);
    let uri = format!("sip:{BJARNE}@127.0.0.1");
    let answer = bench::answer(&challenged, call.from, "INVITE", &uri);
    let mut all = vec![(ANNAS, call.text("")), (ANNAS, call.text(&answer))];
    let sent = bench.send(ANNAS, call.text(&answer));
    let busy = answered(&request(&sent, BJARNES, "INVITE"), "486 Busy Here", "b");
    let sent = bench.send(BJARNES, busy.clone());
    let success = answered(&request(&sent, ENDPOINT, "INVITE"), "200 OK", "vm");
    let sent = bench.send(ENDPOINT, success.clone());
    let heard = last_response(&sent, ANNAS);
    all.extend([(BJARNES, busy), (ENDPOINT, success)]);
    for (cseq, method) in [(1, "ACK"), (2, "INFO"), (3, "BYE")] {
        all.push((ANNAS, in_dialog(method, cseq, &heard, ANNAS, true)));
    }
    all.push((ANNAS, call.cancel()));
    all
}

#[test]
fn messages_with_wrong_bytes_at_wrong_times_do_no_harm() {
    let messages = messages();
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        // The same seed as above: nonces, branches and seals fit, where they were not hit.
        let mut bench = Bench::new();
        bench.register(BJARNE, BJARNES);
        bench.table.add(BJARNE, RouteType::Fallback, ENDPOINT);
        for _ in 0..30 {
            let (port, text) = &messages[rng.random_range(0..messages.len())];
            let mut bytes = text.clone().into_bytes();
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[at] = rng.random(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(20)),
                }
            }
            feed(&mut bench, *port, &bytes.into());
            bench.now += Duration::from_millis(rng.random_range(0..5000));
            bench.proxy.handle_timeout(bench.now);
            settle(&mut bench);
        }
        nothing_stays(&mut bench, &format!("seed {seed}"));
    }
}
