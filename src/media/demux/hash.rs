//! A hash for what is looked up with every packet: keyed, so that nobody chooses addresses that collide, and a few
//! multiplications.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::net::SocketAddrV4;
use std::net::SocketAddrV6;

/// A map with this hash.
pub(super) type Map<K, V> = HashMap<K, V, Keyed>;

/// A map of socket addresses. Those of IPv4 take six bytes in it, not thirty-two: more of them find
/// room in the caches.
#[derive(Debug)]
pub(super) struct AddressMap<V> {
    v4: Map<V4, V>,
    v6: Map<SocketAddrV6, V>,
}

/// An address of IPv4, hashed as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct V4(SocketAddrV4);

impl Hash for V4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (ip, port) = (self.0.ip().to_bits(), self.0.port());
        state.write_u64(u64::from(ip) << 16 | u64::from(port));
    }
}

impl<V> Default for AddressMap<V> {
    fn default() -> Self {
        Self {
            v4: Map::default(),
            v6: Map::default(),
        }
    }
}

impl<V> AddressMap<V> {
    pub(super) fn get(&self, address: &SocketAddr) -> Option<&V> {
        match address {
            SocketAddr::V4(address) => self.v4.get(&V4(*address)),
            SocketAddr::V6(address) => self.v6.get(address),
        }
    }

    pub(super) fn insert(&mut self, address: SocketAddr, value: V) {
        match address {
            SocketAddr::V4(address) => self.v4.insert(V4(address), value),
            SocketAddr::V6(address) => self.v6.insert(address, value),
        };
    }

    pub(super) fn remove(&mut self, address: &SocketAddr) {
        match address {
            SocketAddr::V4(address) => self.v4.remove(&V4(*address)),
            SocketAddr::V6(address) => self.v6.remove(address),
        };
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// Makes hashers with a key of their own: who does not know it cannot choose addresses that collide.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    start: u64,
    factor: u64,
}

impl Default for Keyed {
    fn default() -> Self {
        let chance = RandomState::new();
        Self {
            start: chance.hash_one(0),
            factor: chance.hash_one(1) | 1,
        }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding {
            state: self.start,
            factor: self.factor,
        }
    }
}

/// Multiplies each word by the key, and folds the product's halves together.
#[derive(Debug)]
pub(super) struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, n: u8) {
        self.word(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.word(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.word(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
