//! Any datagrams as STUN, to a lite and to a full agent: no panic, and nothing is kept of them.
#![no_main]

use std::time::Duration;
use std::time::Instant;

use aftertone::media::ice::Agent;
use aftertone::media::ice::stun;
use aftertone::media::ice::stun::Message;
use aftertone::media::sdp::IceCredentials;
use aftertone::media::sdp::IceParams;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: name.to_owned(), password: format!("{name}-and-22-characters-more") }
}

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::read(data) else {
        return;
    };
    message.is_signed_with(&stun::key("password"));
    let mut random = StdRng::seed_from_u64(1);
    let mut now = Instant::now();
    for we_are_lite in [true, false] {
        let params = IceParams {
            local: credentials("ours"),
            remote: Some(credentials("theirs")),
            we_are_lite,
            remote_is_lite: false,
            controlling: !we_are_lite,
            remote_candidates: Vec::new(),
        };
        let mut agent = Agent::new(now, &params, false, 1, &mut random);
        let mut buffer = [0; stun::MAX_LEN];
        let from = ([192, 0, 2, 1], 4_000).into();
        agent.handle(now, from, &message, &mut random, &mut buffer);
        now += Duration::from_secs(1);
        agent.poll_check(now, &mut random, &mut buffer);
        assert_eq!(agent.selected(), None);
    }
});
