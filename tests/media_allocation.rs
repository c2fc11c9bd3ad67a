//! What a media worker allocates: nothing for a packet that is played or heard, and next to nothing for one that is
//! recorded.
#![expect(unsafe_code, reason = "an allocator that counts is one")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its tasks end with it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aftertone::media::audio::{Codec, Prompt};
use aftertone::media::rtp::Header;
use aftertone::media::sdp::{Keying, SrtpKey, SrtpSuite};
use aftertone::media::srtp::{MAX_OVERHEAD, Srtp};
use aftertone::media::{Config, Direction, Engine, MediaParams, RecordLimits, Session};

/// Counts what threads of this name allocate.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

fn note() {
    if is_media_thread() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// By the name that the system has, for which nothing needs to be allocated.
fn is_media_thread() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: the system writes 16 bytes at most, the last of them zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"media-")
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Waits for what other threads do.
const DEADLINE: Duration = Duration::from_secs(20);
const FRAME: usize = 160;
const HEADER: usize = 12;

/// A caller who speaks as fast as he is heard.
struct Caller {
    socket: UdpSocket,
    keys: Option<Srtp>,
    sequence: u16,
    session: Session,
}

fn key(byte: u8) -> SrtpKey {
    let suite = SrtpSuite::AeadAes128Gcm;
    SrtpKey::new(suite, &vec![byte; suite.key_and_salt_len()]).unwrap()
}

impl Caller {
    async fn call(engine: &Engine, is_secured: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let ours = socket.local_addr().unwrap();
        let keying = if is_secured {
            let (send, receive) = (key(1), key(2));
            Keying::Sdes { send, receive }
        } else {
            Keying::Plain
        };
        let session = engine.open(&params(ours, keying)).await.unwrap();
        Self {
            socket,
            keys: is_secured.then(|| Srtp::new(&key(2), &key(1))),
            sequence: 0,
            session,
        }
    }

    fn speak(&mut self) {
        let header = Header {
            payload_type: 8,
            marker: false,
            sequence: self.sequence,
            timestamp: u32::from(self.sequence) * FRAME as u32,
            ssrc: 7,
        };
        let mut packet = [0; HEADER + FRAME + MAX_OVERHEAD];
        packet[..HEADER].copy_from_slice(&header.to_bytes());
        // Loud, and no two frames the same.
        for (nth, code) in packet[HEADER..][..FRAME].iter_mut().enumerate() {
            *code = (nth * 37 + usize::from(self.sequence) * 11) as u8;
        }
        let mut len = HEADER + FRAME;
        if let Some(keys) = &mut self.keys {
            len = keys.protect_rtp(&mut packet, len).unwrap();
        }
        self.sequence += 1;
        let to = self.session.local_addr();
        self.socket.send_to(&packet[..len], to).unwrap();
    }
}

fn params(remote: SocketAddr, keying: Keying) -> MediaParams {
    MediaParams {
        remote: Some(remote),
        remote_rtcp: Some(remote),
        rtcp_mux: true,
        codec: Codec::Pcma,
        payload_type: 8,
        telephone_event: Some(101),
        telephone_event_clock: 8_000,
        comfort_noise: None,
        direction: Direction::SendRecv,
        ptime_ms: 20,
        keying,
        ice: None,
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "{what}");
}

/// Packets that a caller sends at once.
const BURST: u64 = 10;

/// Has all callers speak so many times so many packets, and tells what was allocated meanwhile.
async fn allocated_for(engine: &Engine, callers: &mut [Caller], bursts: u64) -> u64 {
    let before = COUNT.load(Ordering::Relaxed);
    for _ in 0..bursts {
        let received = engine.stats().packets_received + BURST * callers.len() as u64;
        for _ in 0..BURST {
            callers.iter_mut().for_each(Caller::speak);
        }
        until("the packets are taken", || {
            engine.stats().packets_received >= received
        })
        .await;
    }
    COUNT.load(Ordering::Relaxed) - before
}

#[tokio::test]
async fn no_packet_costs_an_allocation() {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        workers: 1,
        ..Config::default()
    };
    let engine = Engine::start(&config, [7; 32]).unwrap();
    let mut callers = [
        Caller::call(&engine, false).await,
        Caller::call(&engine, true).await,
    ];
    let greeting = Prompt::from_samples(vec![1_000; 60 * 8_000]);
    greeting.prepare(Codec::Pcma);
    let greeting = Arc::new(greeting);
    for caller in &mut callers {
        caller.session.play(greeting.clone());
    }

    // What a call takes once, it takes in the beginning.
    assert!(allocated_for(&engine, &mut callers, 40).await > 0);
    let sent = engine.stats().packets_sent;
    // A protected report, one in two and a half seconds at most, is made with a key of its own.
    let begun = Instant::now();
    let allocated = allocated_for(&engine, &mut callers, 100).await;
    let reports = 1 + begun.elapsed().as_secs() / 2;
    assert!(allocated <= reports, "{allocated} allocations");
    assert!(engine.stats().packets_sent > sent + 50);

    // What is recorded is collected in chunks, which grow a few times each.
    let limits = RecordLimits {
        preroll: Duration::ZERO,
        ..RecordLimits::default()
    };
    let drains = callers.each_mut().map(|caller| {
        let mut chunks = caller.session.record(limits);
        tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(chunk) = chunks.recv().await {
                bytes += chunk.bytes.len();
            }
            bytes
        })
    });
    allocated_for(&engine, &mut callers, 1).await;
    let packets = 500;
    let allocated = allocated_for(&engine, &mut callers, packets / BURST).await;
    assert!(allocated < packets * 2 / 5, "{allocated} allocations");
    for caller in &callers {
        assert_eq!(u64::from(caller.sequence), 400 + 1_000 + 10 + packets);
    }
    let dropped = engine.stats().packets_dropped;
    assert!(dropped.iter().all(|(_, count)| *count == 0), "{dropped:?}");
    drop(callers);
    for drain in drains {
        let bytes = drain.await.unwrap();
        assert!(bytes >= packets as usize * FRAME, "{bytes} bytes");
    }
}
