//! The keys that sign ID tokens (RS256), and how they are shown to the world.

use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{self, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::sandbox::StartError;
use crate::sandbox::world::Chance;
use crate::sandbox::world::lock;

/// Keys shown: the one that signs, and those before it, with which tokens were signed that still
/// hold.
const SHOWN: usize = 3;

/// The keys, newest first.
pub(crate) struct Keys {
    keys: Mutex<Vec<Arc<Key>>>,
    chance: Arc<Chance>,
}

struct Key {
    pair: KeyPair,
    public: Jwk,
    id: String,
}

impl Keys {
    /// With a first key.
    pub(crate) async fn generate(chance: Arc<Chance>) -> Result<Self, StartError> {
        let keys = Self {
            keys: Mutex::default(),
            chance,
        };
        keys.rotate().await?;
        Ok(keys)
    }

    /// Makes a new key and signs with it from now on.
    pub(crate) async fn rotate(&self) -> Result<(), StartError> {
        let id = URL_SAFE_NO_PAD.encode(self.chance.bytes::<12>());
        // Finding two primes takes a moment.
        let key = tokio::task::spawn_blocking(move || Key::generate(id)).await;
        let failed = |source| StartError::part("a key to sign ID tokens cannot be made", source);
        let key = key.map_err(|error| failed(error.into()))?.map_err(failed)?;
        let mut keys = lock(&self.keys);
        keys.insert(0, Arc::new(key));
        keys.truncate(SHOWN);
        Ok(())
    }

    /// The JWK set (RFC 7517, 5).
    pub(crate) fn jwks(&self) -> Value {
        let keys = self.all();
        let keys: Vec<_> = keys.iter().map(|key| &key.public).collect();
        json!({ "keys": keys })
    }

    /// The id of the key that signs.
    pub(crate) fn current_id(&self) -> String {
        self.newest().id.clone()
    }

    /// A signed token of these claims (RFC 7515, compact).
    pub(crate) fn sign(&self, claims: &impl Serialize) -> String {
        let key = self.newest();
        let header = json!({ "alg": "RS256", "kid": key.id, "typ": "JWT" });
        let claims = serde_json::to_vec(claims).expect("claims are plain values");
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mut signed = vec![0; key.pair.public_modulus_len()];
        let chance = SystemRandom::new();
        let scheme = &signature::RSA_PKCS1_SHA256;
        let done = key
            .pair
            .sign(scheme, &chance, token.as_bytes(), &mut signed);
        done.expect("the buffer is as long as the modulus");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signed, &mut token);
        token
    }

    /// The claims of a token that we signed, even where it is over.
    pub(crate) fn read<T: DeserializeOwned + Clone>(&self, token: &str) -> Option<T> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        self.all().iter().find_map(|key| {
            let public = DecodingKey::from_jwk(&key.public).ok()?;
            let read = jsonwebtoken::decode::<T>(token, &public, &validation);
            read.ok().map(|token| token.claims)
        })
    }

    fn all(&self) -> Vec<Arc<Key>> {
        let keys = lock(&self.keys);
        keys.clone()
    }

    fn newest(&self) -> Arc<Key> {
        let keys = self.all();
        Arc::clone(keys.first().expect("there is a key since the start"))
    }
}

impl Key {
    fn generate(id: String) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let public = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        let mut public = Jwk::from_decoding_key(&public, Some(Algorithm::RS256))?;
        public.common.key_id = Some(id.clone());
        public.common.key_algorithm = Some(KeyAlgorithm::RS256);
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { pair, public, id })
    }
}
