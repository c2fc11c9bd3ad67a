//! A call from a page in Chromium or Firefox, whose SIP is a library's and whose media are the browser's own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aftertone::media::audio::{BEEP_HZ, Tone, write_wav};
use aftertone::sip::Transport;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{NUMBER, Service, VOICE_HZ, peers};

/// Where `npm ci --prefix tests/peers/browser` puts what drives the browser.
const DRIVER: &str = "node_modules/puppeteer-core/package.json";
/// How long the microphone, or the page, says [`VOICE_HZ`] each time.
pub const MICROPHONE_MS: usize = 2000;

/// Where the page comes from, as the service is told it.
pub const ORIGIN: &str = "http://localhost";

/// A library that browsers speak SIP with.
#[derive(Clone, Copy)]
pub enum Library {
    JsSip,
    SipJs,
}

/// What the page is to do in its call.
pub struct Plan {
    in_firefox: bool,
    library: Library,
    transport: Transport,
    codec: Option<&'static str>,
    hides_addresses: bool,
    leaves_the_offer: bool,
    story: Vec<&'static str>,
}

/// What the page heard, and what the browser knew of the connection.
pub struct Heard {
    pub samples: Vec<i16>,
    /// Who hung up, as the library sees it: `local` or `remote`. `None` where nobody waited for it.
    pub ended_by: Option<String>,
    /// The last descriptions of the page and of the service, whichever was the offer.
    pub own: String,
    pub theirs: String,
    steps: Value,
}

impl Heard {
    /// What the browser knew of its connection after a step of the story.
    pub fn after(&self, step: &str) -> &Value {
        &self.steps[step]["stats"]
    }
}

impl Plan {
    /// The steps of `story` once the call is answered, after which the page is closed; see `tests/peers/browser/page.mjs`.
    pub fn new(library: Library, transport: Transport, story: &[&'static str]) -> Self {
        Self {
            in_firefox: false,
            library,
            transport,
            codec: None,
            hides_addresses: false,
            leaves_the_offer: false,
            story: story.to_vec(),
        }
    }

    /// In Firefox instead of Chromium; without a microphone.
    pub fn in_firefox(mut self) -> Self {
        self.in_firefox = true;
        self
    }

    /// With this codec only.
    pub fn offering(mut self, codec: &'static str) -> Self {
        self.codec = Some(codec);
        self
    }

    /// From a page that may not yet use the microphone, of whose addresses Chromium tells nobody (mDNS names).
    pub fn hiding_addresses(mut self) -> Self {
        self.hides_addresses = true;
        self
    }

    /// By an INVITE without a description; of SIP.js only.
    pub fn leaving_the_offer(mut self) -> Self {
        self.leaves_the_offer = true;
        self
    }

    /// Places the call; `None` where the browser or what drives it is not installed.
    pub async fn call(&self, service: &Service) -> Option<Heard> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser");
        let node = peers::find("node")?;
        let browser = match self.in_firefox {
            true => peers::find("pulseaudio").and_then(|_| peers::find("firefox-esr"))?,
            false => peers::find("chromium")?,
        };
        peers::find_file(&folder.join(DRIVER))?;

        let dir = tempfile::tempdir_in(service.dir.path()).unwrap();
        let voice = dir.path().join("voice.wav");
        let said = [
            vec![0; 8 * 100],
            Tone::new(VOICE_HZ, 0.3).take_ms(MICROPHONE_MS),
            vec![0; 8 * 10_000],
        ];
        std::fs::write(&voice, write_wav(&said.concat())).unwrap();
        let library = match self.library {
            Library::JsSip => "jssip",
            Library::SipJs => "sipjs",
        };
        let scheme = if self.transport == Transport::Wss {
            "wss"
        } else {
            "ws"
        };
        let plan = json!({
            "browser": browser,
            "library": library,
            "server": format!("{scheme}://{}", service.sip(self.transport)),
            "target": format!("sip:{NUMBER}@127.0.0.1"),
            "headers": [format!("Diversion: <sip:{NUMBER}@browser.example>;reason=user-busy")],
            "voice": (!self.in_firefox).then_some(voice),
            "voiceHz": VOICE_HZ,
            "voiceMs": MICROPHONE_MS,
            "beepHz": BEEP_HZ,
            "codec": self.codec,
            "hidesAddresses": self.hides_addresses,
            "leavesTheOffer": self.leaves_the_offer,
            "trusted": key_hash(&service.dir.path().join("key.pem")),
            "story": self.story,
        });
        let mut command = Command::new(node);
        command.arg(folder.join("call.mjs")).arg(plan.to_string());
        let output = peers::run(command, Duration::from_secs(90)).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the call failed: {complaint}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        Some(Heard {
            samples: peers::samples(&text("heard")),
            ended_by: told["endedBy"].as_str().map(str::to_owned),
            own: text("own"),
            theirs: text("theirs"),
            steps: told["steps"].clone(),
        })
    }
}

/// The hash of the public key that Chromium is told to take: nobody vouches for a test's certificate.
fn key_hash(private_key: &Path) -> String {
    let pem = std::fs::read_to_string(private_key).unwrap();
    let key = rcgen::KeyPair::from_pem(&pem).unwrap();
    BASE64_STANDARD.encode(Sha256::digest(
        rcgen::PublicKeyData::subject_public_key_info(&key),
    ))
}
