//! Peers with RSA certificates, which speak DTLS 1.2, and certificates that are long.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use aws_lc_rs::signature::RsaKeyPair;
use dimpl::Config;
use dimpl::CryptoError;
use dimpl::DtlsCertificate;
use dimpl::crypto::Buf;
use dimpl::crypto::HashAlgorithm;
use dimpl::crypto::KeyProvider;
use dimpl::crypto::SignatureAlgorithm;
use dimpl::crypto::SigningKey;

use crate::media::dtls::Certificate;
use crate::media::dtls::DEADLINE;
use crate::media::dtls::Dtls;
use crate::media::dtls::DtlsError;
use crate::media::dtls::DtlsEvent;
use crate::media::dtls::MAX_DATAGRAM;
use crate::media::dtls::Path;
use crate::media::dtls::configured;
use crate::media::dtls::tests::CLIENT;
use crate::media::dtls::tests::SERVER;
use crate::media::dtls::tests::Weather;
use crate::media::dtls::tests::World;
use crate::media::dtls::tests::seeds;
use crate::media::dtls::tests::weather;
use crate::media::sdp::DtlsRole;
use crate::media::sdp::Fingerprint;

/// What a peer does that signs with RSA; the library does not do it for us.
#[derive(Debug)]
struct RsaKeys;

#[derive(Debug)]
struct RsaKey(RsaKeyPair);

impl KeyProvider for RsaKeys {
    fn load_private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        Ok(Box::new(RsaKey(RsaKeyPair::from_pkcs8(pkcs8).unwrap())))
    }
}

impl SigningKey for RsaKey {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        assert_eq!(hash, HashAlgorithm::SHA256);
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = SystemRandom::new();
        let signed = self
            .0
            .sign(&RSA_PKCS1_SHA256, &random, data, &mut signature);
        signed.unwrap();
        out.clear();
        out.extend_from_slice(&signature);
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

/// Its certificate names so many hosts: each makes it some 30 bytes longer.
fn certificate(key: &rcgen::KeyPair, hosts: usize) -> DtlsCertificate {
    let names: Vec<_> = (0..hosts)
        .map(|host| format!("host-{host:06}.example.org"))
        .collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    DtlsCertificate {
        certificate: params.self_signed(key).unwrap().der().to_vec(),
        private_key: key.serialize_der(),
    }
}

fn rsa_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()
}

static RSA_KEY: LazyLock<rcgen::KeyPair> = LazyLock::new(rsa_key);

fn fingerprint(certificate: &DtlsCertificate) -> Fingerprint {
    let digest = dimpl::certificate::calculate_fingerprint(&certificate.certificate);
    Fingerprint::sha256(digest.try_into().unwrap())
}

fn role(end: usize) -> DtlsRole {
    match end {
        CLIENT => DtlsRole::Active,
        _ => DtlsRole::Passive,
    }
}

/// An RSA peer and what it is told to expect; `end` is its place in a [`World`].
struct Peer {
    end: usize,
    certificate: DtlsCertificate,
    /// What signalling tells of it.
    told: Fingerprint,
}

impl Peer {
    fn new(end: usize) -> Self {
        Self::with(end, certificate(&RSA_KEY, 1))
    }

    fn with(end: usize, certificate: DtlsCertificate) -> Self {
        let told = fingerprint(&certificate);
        Self {
            end,
            certificate,
            told,
        }
    }

    /// Between the peer and us.
    fn world(self, seed: u64, weather: Weather, path: Path, mtu: usize) -> World {
        let now = Instant::now();
        let certificate = Certificate::generate().unwrap();
        let us = Dtls::with_config(
            now,
            role(1 - self.end),
            configured(path, mtu),
            &certificate,
            &[self.told],
        );
        let mut provider = dimpl::crypto::aws_lc_rs::default_provider();
        provider.key_provider = &RsaKeys;
        let config = Config::builder().mtu(mtu).with_crypto_provider(provider);
        let inner = dimpl::Dtls::new_12(Arc::new(config.build().unwrap()), self.certificate, now);
        let expected = [certificate.fingerprint().clone()];
        let them = Dtls::around(now, role(self.end), inner, &expected);
        let ends = match self.end {
            CLIENT => [them, us],
            _ => [us, them],
        };
        World::between(seed, weather, now, ends)
    }

    fn in_good_weather(self) -> World {
        self.world(1, Weather::default(), Path::Checked, MAX_DATAGRAM)
    }
}

#[test]
fn a_peer_with_an_rsa_key_has_the_same_keys_in_either_role() {
    for end in [CLIENT, SERVER] {
        for path in [Path::Checked, Path::Unchecked] {
            let mut world = Peer::new(end).world(1, Weather::default(), path, MAX_DATAGRAM);
            world.assert_done_without_waiting();
        }
    }
}

#[test]
fn loss_duplicates_and_disorder_are_survived_with_rsa_too() {
    let seeds = seeds(40);
    let mut complete = 0;
    for seed in seeds.clone() {
        let mtu = [MAX_DATAGRAM, 400][seed as usize / 2 % 2];
        let path = [Path::Checked, Path::Unchecked][seed as usize / 4 % 2];
        let mut world = Peer::new(seed as usize % 2).world(seed, weather(seed), path, mtu);
        world.run();
        let expected = [DtlsError::Silent, DtlsError::Stalled];
        complete += usize::from(world.is_complete(seed, &expected));
    }
    let all = seeds.count();
    assert!(
        complete * 20 >= all * 19,
        "only {complete} of {all} handshakes complete"
    );
}

#[test]
fn a_handshake_with_rsa_that_stops_anywhere_ends_before_its_deadline() {
    for end in [CLIENT, SERVER] {
        for lost_from in 0..10 {
            let mut world = Peer::new(end).in_good_weather();
            let begin = world.now;
            world.run_with_loss_from(lost_from);
            let us = 1 - end;
            match world.failed[us] {
                None => assert!(world.done[us].is_some(), "after {lost_from}"),
                Some(error) => assert!(
                    matches!(error, DtlsError::Silent | DtlsError::Stalled),
                    "after {lost_from}: {error:?}"
                ),
            }
            assert!(world.now <= begin + DEADLINE + Duration::from_secs(1));
        }
    }
}

#[test]
fn a_certificate_without_its_key_gives_no_keys() {
    for end in [CLIENT, SERVER] {
        let mut stolen = certificate(&RSA_KEY, 1);
        stolen.private_key = rsa_key().serialize_der();
        let mut world = Peer::with(end, stolen).in_good_weather();
        world.run();
        assert_eq!(world.failed[1 - end], Some(DtlsError::Faulty));
        assert!(world.done[1 - end].is_none());
    }
}

#[test]
fn an_rsa_certificate_of_another_fingerprint_gives_no_keys() {
    for end in [CLIENT, SERVER] {
        let mut peer = Peer::new(end);
        peer.told = Fingerprint::sha256([9; 32]);
        let mut world = peer.in_good_weather();
        world.run();
        assert_eq!(world.failed[1 - end], Some(DtlsError::FingerprintMismatch));
        assert!(world.done[1 - end].is_none());
    }
}

#[test]
fn a_certificate_longer_than_a_datagram_is_taken() {
    for end in [CLIENT, SERVER] {
        let long = certificate(&RSA_KEY, 60);
        assert!(long.certificate.len() > MAX_DATAGRAM);
        let mut world = Peer::with(end, long).in_good_weather();
        world.run();
        world.assert_same_keys();
    }
}

/// With DTLS 1.3, which RSA peers do not speak.
#[test]
fn a_long_certificate_is_taken_in_dtls_1_3_too() {
    let key = rcgen::KeyPair::generate().unwrap();
    for end in [CLIENT, SERVER] {
        let now = Instant::now();
        let ours = Certificate::generate().unwrap();
        let long = certificate(&key, 60);
        let told = [fingerprint(&long)];
        let config = configured(Path::Checked, MAX_DATAGRAM);
        let mut us = Dtls::with_config(now, role(1 - end), Arc::clone(&config), &ours, &told);
        let inner = dimpl::Dtls::new_13(config, long, now);
        let mut them = Dtls::around(now, role(end), inner, &[ours.fingerprint().clone()]);
        for _ in 0..6 {
            pass_on(now, &mut us, &mut them);
            pass_on(now, &mut them, &mut us);
        }
        assert!(matches!(us.poll_event(), Some(DtlsEvent::Done(_))));
        assert!(matches!(them.poll_event(), Some(DtlsEvent::Done(_))));
    }
}

/// At once and in order.
fn pass_on(now: Instant, from: &mut Dtls, to: &mut Dtls) {
    let mut buffer = [0; MAX_DATAGRAM];
    while let Some(len) = from.poll_transmit(&mut buffer) {
        to.handle(now, &buffer[..len]);
    }
}

#[test]
fn a_certificate_longer_than_any_is_refused() {
    for end in [CLIENT, SERVER] {
        let endless = certificate(&RSA_KEY, 1_000);
        assert!(endless.certificate.len() > crate::media::dtls::MAX_CERTIFICATE);
        let mut world = Peer::with(end, endless).in_good_weather();
        world.run();
        assert!(world.failed[1 - end].is_some() && world.done[1 - end].is_none());
    }
}

#[test]
fn damaged_datagrams_of_an_rsa_peer_never_panic() {
    for seed in seeds(200) {
        let mtu = [MAX_DATAGRAM, 400][seed as usize / 2 % 2];
        let peer = Peer::new(seed as usize % 2);
        let mut world = peer.world(seed, Weather::default(), Path::Checked, mtu);
        world.run_with_damage();
    }
}
