//! Any bytes as a file that somebody gives for a greeting, and as the payloads of each codec: no panic, and what is
//! decoded is as long as the payload says.
#![no_main]

use aftertone::media::audio::Codec;
use aftertone::media::audio::Decoder;
use aftertone::media::audio::TICK_RATE;
use aftertone::media::audio::read_audio;
use libfuzzer_sys::fuzz_target;

const CODECS: [Codec; 4] = [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus];
/// The longest greeting.
const SECONDS: usize = 300;

// As payloads: the codec, and before each its length.
fuzz_target!(|data: &[u8]| {
    if let Ok((samples, rate)) = read_audio(data) {
        assert!((8_000..=48_000).contains(&rate));
        assert!(samples.len() <= (SECONDS + 1) * rate as usize);
    }
    let Some((choice, payloads)) = data.split_first() else {
        return;
    };
    let codec = CODECS[usize::from(*choice) % CODECS.len()];
    for rate in [8_000, 48_000] {
        let mut decoder = Decoder::new(codec, rate);
        let mut samples = Vec::new();
        let mut rest = payloads;
        while let [len, tail @ ..] = rest {
            let (payload, after) = tail.split_at(tail.len().min(usize::from(*len)));
            let ticks = codec.duration(payload).unwrap_or(0);
            samples.clear();
            decoder.decode(payload, &mut samples);
            assert_eq!(samples.len(), (ticks / (TICK_RATE / rate)) as usize);
            samples.clear();
            decoder.recover(payload, ticks, &mut samples);
            assert_eq!(samples.len(), (ticks / (TICK_RATE / rate)) as usize);
            rest = after;
        }
    }
});
