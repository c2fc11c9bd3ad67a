//! Our DTLS against OpenSSL's, a stranger: both roles, both kinds of path, fragments, and the keys that both export.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "a foreign program keeps the time of the world"
)]

#[path = "support/peers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
mod peers;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aftertone::media::dtls::{self, Certificate, Dtls, DtlsError, DtlsEvent, Path};
use aftertone::media::sdp::{DtlsRole, Fingerprint, HashFunction, SrtpKey, SrtpSuite};
use aftertone::media::srtp::{self, Srtp};

const LONGEST: Duration = Duration::from_secs(20);
const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const EC_384: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA: [&str; 2] = ["-newkey", "rsa:2048"];
const RSA_OF_BARESIP: [&str; 3] = ["-newkey", "rsa:2048", "-sha1"];
const RSA_SHORT: [&str; 2] = ["-newkey", "rsa:1024"];
const RSA_LONG: [&str; 2] = ["-newkey", "rsa:4096"];
/// Debian's OpenSSL does not use short keys unless told to.
const ANY_KEY: [&str; 2] = ["-cipher", "DEFAULT@SECLEVEL=0"];

/// OpenSSL with a certificate of its own.
struct OpenSsl {
    program: PathBuf,
    dir: tempfile::TempDir,
    fingerprint: Fingerprint,
}

/// One end of an association in OpenSSL, and what it prints.
struct End {
    _process: peers::Running,
    lines: mpsc::Receiver<String>,
}

impl End {
    /// What stands behind `label` in the next line that has it.
    fn wait_for(&self, label: &str) -> String {
        let until = Instant::now() + LONGEST;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap();
            if let Some((_, rest)) = line.split_once(label) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl OpenSsl {
    /// `None` where OpenSSL is not installed.
    fn with_key(kind: &[&str]) -> Option<Self> {
        let program = peers::find("openssl")?;
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            let output = command.args(arguments).current_dir(&dir).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let made = [
            "-nodes",
            "-subj",
            "/CN=judge",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ];
        run(&[&["req", "-x509"], kind, &made].concat());
        let printed = run(&[
            "x509",
            "-in",
            "cert.pem",
            "-noout",
            "-fingerprint",
            "-sha256",
        ]);
        let (_, digits) = printed.trim().split_once('=').unwrap();
        let digest = digits
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap());
        let fingerprint = Fingerprint {
            hash: HashFunction::Sha256,
            digest: digest.collect(),
        };
        Some(Self {
            program,
            dir,
            fingerprint,
        })
    }

    fn start(&self, arguments: &[&str], suite: SrtpSuite) -> End {
        let profile = match suite {
            SrtpSuite::AeadAes256Gcm => "SRTP_AEAD_AES_256_GCM",
            SrtpSuite::AeadAes128Gcm => "SRTP_AEAD_AES_128_GCM",
            _ => "SRTP_AES128_CM_SHA1_80",
        };
        let exported = (2 * suite.key_and_salt_len()).to_string();
        let mut process = Command::new(&self.program)
            .args(arguments)
            .args([
                "-dtls1_2",
                "-cert",
                "cert.pem",
                "-key",
                "key.pem",
                "-use_srtp",
                profile,
            ])
            .args([
                "-keymatexport",
                "EXTRACTOR-dtls_srtp",
                "-keymatexportlen",
                &exported,
            ])
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        End {
            _process: peers::Running(Some(process)),
            lines,
        }
    }
}

/// Our end: what becomes of the handshake.
fn handshake(
    socket: &UdpSocket,
    mut to: Option<SocketAddr>,
    mut dtls: Dtls,
) -> Result<Srtp, DtlsError> {
    let mut buffer = [0; 2048];
    let until = Instant::now() + LONGEST;
    loop {
        while let Some(len) = dtls.poll_transmit(&mut buffer[..dtls::MAX_DATAGRAM]) {
            socket.send_to(&buffer[..len], to.unwrap()).unwrap();
        }
        match dtls.poll_event() {
            Some(DtlsEvent::Done(keys)) => return Ok(*keys),
            Some(DtlsEvent::Failed(error)) => return Err(error),
            Some(DtlsEvent::Closed) | None => {}
        }
        assert!(Instant::now() < until, "no end: {dtls:?}");
        let next = dtls.next_timeout().unwrap_or(until);
        let wait = next.saturating_duration_since(Instant::now());
        socket
            .set_read_timeout(Some(wait.max(Duration::from_millis(1))))
            .unwrap();
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                to = Some(from);
                dtls.handle(Instant::now(), &buffer[..len]);
            }
            Err(_) => dtls.handle_timeout(Instant::now()),
        }
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind(("127.0.0.1", 0)).unwrap()
}

/// A handshake in which we are the server.
fn passive(
    openssl: &OpenSsl,
    path: Path,
    more: &[&str],
    suite: SrtpSuite,
) -> (End, Result<Srtp, DtlsError>) {
    let certificate = Certificate::generate().unwrap();
    let socket = socket();
    let expected = [openssl.fingerprint.clone()];
    let dtls = Dtls::new(
        Instant::now(),
        DtlsRole::Passive,
        path,
        &certificate,
        &expected,
    );
    let address = socket.local_addr().unwrap().to_string();
    let end = openssl.start(&[&["s_client", "-connect", &address], more].concat(), suite);
    let result = handshake(&socket, None, dtls);
    (end, result)
}

/// A handshake in which we are the client.
fn active(openssl: &OpenSsl, more: &[&str], suite: SrtpSuite) -> (End, Result<Srtp, DtlsError>) {
    let certificate = Certificate::generate().unwrap();
    let socket = socket();
    let listen = ["s_server", "-accept", "127.0.0.1:0", "-verify", "1"];
    let end = openssl.start(&[&listen, more].concat(), suite);
    let to = end.wait_for("ACCEPT ").parse().unwrap();
    let expected = [openssl.fingerprint.clone()];
    let dtls = Dtls::new(
        Instant::now(),
        DtlsRole::Active,
        Path::Checked,
        &certificate,
        &expected,
    );
    let result = handshake(&socket, Some(to), dtls);
    (end, result)
}

/// The peer's end under the keys that OpenSSL prints (RFC 5764 section 4.2).
fn exported(end: &End, suite: SrtpSuite, is_client: bool) -> Srtp {
    let digits = end.wait_for("Keying material: ");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let material: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    let key_len = if suite == SrtpSuite::AeadAes256Gcm {
        32
    } else {
        16
    };
    let (keys, salts) = material.split_at(2 * key_len);
    let salt_len = suite.key_and_salt_len() - key_len;
    let [client, server] = [0, 1].map(|of: usize| {
        let key = &keys[of * key_len..][..key_len];
        let salt = &salts[of * salt_len..][..salt_len];
        SrtpKey::new(suite, &[key, salt].concat()).unwrap()
    });
    match is_client {
        true => Srtp::new(&client, &server),
        false => Srtp::new(&server, &client),
    }
}

fn assert_understand(one: &mut Srtp, other: &mut Srtp) {
    let mut packet = [0; 172 + srtp::MAX_OVERHEAD];
    packet[0] = 0x80;
    let len = one.protect_rtp(&mut packet, 172).unwrap();
    assert_eq!(other.unprotect_rtp(&mut packet[..len]), Ok(172));
    packet[11] = 1;
    let len = other.protect_rtp(&mut packet, 172).unwrap();
    assert_eq!(one.unprotect_rtp(&mut packet[..len]), Ok(172));
}

#[track_caller]
fn understands_as_server(openssl: &OpenSsl, path: Path, arguments: &[&str], suite: SrtpSuite) {
    let (end, ours) = passive(openssl, path, arguments, suite);
    assert_understand(&mut ours.unwrap(), &mut exported(&end, suite, true));
}

#[track_caller]
fn understands_as_client(openssl: &OpenSsl, arguments: &[&str], suite: SrtpSuite) {
    let (end, ours) = active(openssl, arguments, suite);
    assert_understand(&mut ours.unwrap(), &mut exported(&end, suite, false));
}

const SUITES: [SrtpSuite; 3] = [
    SrtpSuite::AeadAes256Gcm,
    SrtpSuite::AeadAes128Gcm,
    SrtpSuite::AesCm128HmacSha1_80,
];

#[test]
fn as_server_we_export_the_keys_that_openssl_exports() {
    let Some(openssl) = OpenSsl::with_key(&EC) else {
        return;
    };
    for suite in SUITES {
        understands_as_server(&openssl, Path::Checked, &[], suite);
    }
}

#[test]
fn as_client_we_export_the_keys_that_openssl_exports() {
    let Some(openssl) = OpenSsl::with_key(&EC) else {
        return;
    };
    for suite in SUITES {
        understands_as_client(&openssl, &[], suite);
    }
}

#[test]
fn a_client_of_unchecked_address_returns_the_cookie() {
    let Some(openssl) = OpenSsl::with_key(&EC_384) else {
        return;
    };
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    understands_as_server(&openssl, Path::Unchecked, &[], suite);
}

#[test]
fn messages_in_small_fragments_are_put_together() {
    let Some(openssl) = OpenSsl::with_key(&EC) else {
        return;
    };
    let suite = SrtpSuite::AeadAes128Gcm;
    understands_as_server(&openssl, Path::Checked, &["-mtu", "300"], suite);
    understands_as_client(&openssl, &["-mtu", "300"], suite);
}

#[test]
fn a_server_that_asks_for_a_cookie_gets_it_back() {
    let Some(openssl) = OpenSsl::with_key(&EC) else {
        return;
    };
    let suite = SrtpSuite::AeadAes128Gcm;
    understands_as_client(&openssl, &["-listen"], suite);
}

/// Older phones, FreeSWITCH and session border controllers have such certificates.
#[test]
fn a_peer_with_an_rsa_key_is_understood_in_both_roles() {
    for kind in [&RSA[..], &RSA_OF_BARESIP, &RSA_SHORT, &RSA_LONG] {
        let Some(openssl) = OpenSsl::with_key(kind) else {
            return;
        };
        for suite in SUITES {
            understands_as_server(&openssl, Path::Checked, &ANY_KEY, suite);
            understands_as_client(&openssl, &ANY_KEY, suite);
        }
    }
}

#[test]
fn a_peer_with_an_rsa_key_signs_with_the_hash_function_that_it_likes() {
    let Some(openssl) = OpenSsl::with_key(&RSA) else {
        return;
    };
    let suite = SrtpSuite::AeadAes128Gcm;
    for hash in ["RSA+SHA256", "RSA+SHA384", "RSA+SHA512"] {
        let likes = ["-sigalgs", &format!("{hash}:ECDSA+SHA256")];
        understands_as_client(&openssl, &likes, suite);
        understands_as_server(&openssl, Path::Checked, &likes, suite);
    }
}

#[test]
fn cookies_and_small_fragments_go_with_rsa_too() {
    let Some(openssl) = OpenSsl::with_key(&RSA) else {
        return;
    };
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    understands_as_server(&openssl, Path::Unchecked, &["-mtu", "300"], suite);
    understands_as_client(&openssl, &["-listen", "-mtu", "300"], suite);
}

/// The limit of `docs/decisions/0009-dtls.md`: an error that says so, and in time.
#[test]
fn a_peer_that_takes_only_rsa_certificates_is_refused_by_name() {
    let Some(openssl) = OpenSsl::with_key(&RSA) else {
        return;
    };
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    let only = ["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    let (_end, ours) = passive(&openssl, Path::Checked, &only, suite);
    assert_eq!(ours.map(drop), Err(DtlsError::NoSuite));
}

#[test]
fn a_peer_with_another_certificate_is_refused() {
    for kind in [&EC[..], &RSA] {
        let Some(mut openssl) = OpenSsl::with_key(kind) else {
            return;
        };
        openssl.fingerprint = Fingerprint::sha256([1; 32]);
        let suite = SrtpSuite::AeadAes128Gcm;
        let (_end, ours) = passive(&openssl, Path::Checked, &[], suite);
        assert_eq!(ours.map(drop), Err(DtlsError::FingerprintMismatch));
        let (_end, ours) = active(&openssl, &[], suite);
        assert_eq!(ours.map(drop), Err(DtlsError::FingerprintMismatch));
    }
}

#[test]
fn a_peer_without_srtp_is_refused() {
    let Some(openssl) = OpenSsl::with_key(&EC) else {
        return;
    };
    let certificate = Certificate::generate().unwrap();
    let socket = socket();
    let expected = [openssl.fingerprint.clone()];
    let now = Instant::now();
    let dtls = Dtls::new(
        now,
        DtlsRole::Passive,
        Path::Checked,
        &certificate,
        &expected,
    );
    let address = socket.local_addr().unwrap().to_string();
    let process = Command::new(&openssl.program)
        .args(["s_client", "-connect", &address, "-dtls1_2"])
        .args(["-cert", "cert.pem", "-key", "key.pem"])
        .current_dir(&openssl.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _process = peers::Running(Some(process.unwrap()));
    let result = handshake(&socket, None, dtls);
    assert_eq!(result.map(drop), Err(DtlsError::NoSrtpProfile));
}
