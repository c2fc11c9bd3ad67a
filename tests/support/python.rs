//! Telephones in Python: aiortc, and libsrtp with keys in the description (`tests/peers/webrtc`).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aftertone::media::audio::BEEP_HZ;
use aftertone::sip::Transport;
use serde_json::{Value, json};

use super::{NUMBER, Service, VOICE_HZ, peers};

/// How long they say [`VOICE_HZ`].
pub const VOICE_MS: usize = 2000;

/// What a call of theirs heard, and what they tell of it.
pub struct Heard {
    pub samples: Vec<i16>,
    told: Value,
}

impl Heard {
    /// What is told under this name.
    pub fn told(&self, name: &str) -> &Value {
        &self.told[name]
    }

    /// The service's description.
    pub fn answer(&self) -> &str {
        self.told["answer"].as_str().unwrap()
    }
}

/// Runs a call to [`NUMBER`]; `more` is what the script has to know besides. `None` where its modules are not installed.
pub async fn call(
    script: &str,
    service: &Service,
    transport: Transport,
    more: Value,
) -> Option<Heard> {
    let python = peers::find_python(&["aiortc", "pylibsrtp"])?;
    let mut plan = json!({
        "transport": transport.uri_name(),
        "server": service.sip(transport).to_string(),
        "target": service.uri(NUMBER, transport).to_string(),
        "headers": [format!("Diversion: <sip:{NUMBER}@core.example.com>;reason=user-busy")],
        "voice_hz": VOICE_HZ,
        "voice_ms": VOICE_MS,
        "beep_hz": BEEP_HZ,
    });
    for (name, value) in more.as_object().unwrap() {
        plan[name] = value.clone();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers/webrtc")
        .join(script);
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(plan.to_string());
    let output = peers::run(command, Duration::from_secs(70)).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the call failed: {complaint}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    Some(Heard {
        samples: peers::samples(told["heard"].as_str().unwrap()),
        told,
    })
}
