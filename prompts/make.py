#!/usr/bin/env python3
"""Makes the prompts of this folder from text.

    prompts/make.py             writes every WAV and manifest.toml
    prompts/make.py --compare   measures the voices of Debian that could be used instead

Needs Debian's packages espeak-ng, festival, festvox-us-slt-hts and sox, and for the comparison
flite. Everything else is Python's standard library.
"""

import array
import math
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATE = 8000
TARGET_LUFS = -19.0
PEAK = 10 ** (-1.5 / 20)
LEAD_MS, TAIL_MS = 50, 150
SILENT = 10 ** (-50 / 20)
BEEP_HZ, BEEP_MS, BEEP_AMPLITUDE, BEEP_FADE_MS = 660, 300, 0.25, 8

LICENCES = {
    "festival": "CMU US SLT voice for HTS, Debian package festvox-us-slt-hts; free use, "
    "attribution to Carnegie Mellon University and the HTS working group",
    "espeak-ng": "Debian package espeak-ng, GPL-3.0-or-later; the licence does not reach the audio",
    "flite": "Debian package flite; free use, attribution to Carnegie Mellon University",
}

# Fits a voice to the telephone. The statistical voice of festival and those of flite hold nearly all
# their power below 1 kHz: raised above it, consonants stay clear. What lies lower only costs level.
EFFECTS = {
    "festival": ["highpass", "250", "treble", "12", "1500"],
    "flite": ["highpass", "250", "treble", "12", "1500"],
    "espeak-ng": ["highpass", "100"],
}

# The voice of each language: engine, name, and how fast.
VOICES = {
    "en": ("festival", "cmu_us_slt_arctic_hts", None),
    "nb": ("espeak-ng", "nb", 150),
    "sv": ("espeak-ng", "sv", 150),
    "de": ("espeak-ng", "de", 150),
}

CANDIDATES = {
    "en": [
        ("festival", "cmu_us_slt_arctic_hts", None),
        ("flite", "slt", None),
        ("flite", "rms", None),
        ("flite", "kal", None),
        ("espeak-ng", "en-gb", 150),
        ("espeak-ng", "en-us", 150),
    ],
    "nb": [("espeak-ng", "nb", 150), ("espeak-ng", "nb+f3", 150)],
    "sv": [("espeak-ng", "sv", 150), ("espeak-ng", "sv+f3", 150)],
    "de": [("espeak-ng", "de", 150), ("espeak-ng", "de+f3", 150)],
}

TEXTS = {
    "en": {
        "greeting": "The person you are calling cannot answer. Please leave a message after the tone.",
        "greeting-busy": "The person you are calling is busy. Please leave a message after the tone.",
        "greeting-no-answer": "The person you are calling does not answer. Please leave a message after the tone.",
        "greeting-unreachable": "The person you are calling cannot be reached. Please leave a message after the tone.",
        "thank-you": "Thank you. Goodbye.",
        "mailbox-full": "Sorry, this mailbox is full. Please try again later. Goodbye.",
    },
    "nb": {
        "greeting": "Abonnenten kan ikke svare. Legg igjen en beskjed etter tonen.",
        "greeting-busy": "Abonnenten er opptatt. Legg igjen en beskjed etter tonen.",
        "greeting-no-answer": "Abonnenten svarer ikke. Legg igjen en beskjed etter tonen.",
        "greeting-unreachable": "Abonnenten kan ikke nås. Legg igjen en beskjed etter tonen.",
        "thank-you": "Takk for beskjeden. Ha det bra.",
        "mailbox-full": "Beklager, talepostkassen er full. Prøv igjen senere. Ha det bra.",
    },
    "sv": {
        "greeting": "Personen du ringer kan inte svara. Lämna ett meddelande efter tonen.",
        "greeting-busy": "Personen du ringer är upptagen. Lämna ett meddelande efter tonen.",
        "greeting-no-answer": "Personen du ringer svarar inte. Lämna ett meddelande efter tonen.",
        "greeting-unreachable": "Personen du ringer kan inte nås. Lämna ett meddelande efter tonen.",
        "thank-you": "Tack för ditt meddelande. Hej då.",
        "mailbox-full": "Tyvärr är röstbrevlådan full. Försök igen senare. Hej då.",
    },
    "de": {
        "greeting": "Die angerufene Person kann nicht antworten. Bitte sprechen Sie nach dem Ton.",
        "greeting-busy": "Die angerufene Person ist beschäftigt. Bitte sprechen Sie nach dem Ton.",
        "greeting-no-answer": "Die angerufene Person meldet sich nicht. Bitte sprechen Sie nach dem Ton.",
        "greeting-unreachable": "Die angerufene Person ist nicht erreichbar. Bitte sprechen Sie nach dem Ton.",
        "thank-you": "Vielen Dank. Auf Wiederhören.",
        "mailbox-full": "Der Anrufbeantworter ist leider voll. Bitte versuchen Sie es später wieder. Auf Wiederhören.",
    },
}


def main():
    if sys.argv[1:] == ["--compare"]:
        compare()
    elif not sys.argv[1:]:
        make()
    else:
        sys.exit(__doc__)


def make():
    entries = []
    for language, texts in TEXTS.items():
        voice = VOICES[language]
        (HERE / language).mkdir(exist_ok=True)
        for name, text in texts.items():
            samples = finish(trim(speak(voice, text)))
            write(HERE / language / f"{name}.wav", samples)
            entries.append((language, name, text, voice, samples))
            print(f"{language}/{name}: {len(samples) / RATE:.2f} s, {loudness(samples):.1f} LUFS")
    write(HERE / "beep.wav", beep())
    write_manifest(entries)


def speak(voice, text):
    """Speaks `text`, and returns it as 8 kHz mono samples between -1 and 1."""
    engine, name, speed = voice
    with tempfile.TemporaryDirectory() as folder:
        spoken, narrow = Path(folder, "spoken.wav"), Path(folder, "narrow.wav")
        if engine == "espeak-ng":
            run("espeak-ng", "-v", name, "-s", str(speed), "-w", spoken, text)
        elif engine == "festival":
            run("text2wave", "-eval", f"(voice_{name})", "-o", spoken, stdin=text)
        elif engine == "flite":
            run("flite", "-voice", name, "-t", text, "-o", spoken)
        to_rate = ["gain", "-14", "rate", "-v", str(RATE)]
        run("sox", "-D", spoken, "-c", "1", "-b", "16", narrow, *to_rate, *EFFECTS[engine])
        with wave.open(str(narrow)) as file:
            assert file.getframerate() == RATE and file.getnchannels() == 1
            raw = array.array("h", file.readframes(file.getnframes()))
    return [sample / 32768 for sample in raw]


def run(*command, stdin=None):
    subprocess.run([str(part) for part in command], input=stdin, text=True, check=True)


def trim(samples):
    """Cuts silence down to LEAD_MS before and TAIL_MS after the speech."""
    peak = max(map(abs, samples))
    loud = [at for at, sample in enumerate(samples) if abs(sample) > SILENT * peak]
    lead, tail = LEAD_MS * RATE // 1000, TAIL_MS * RATE // 1000
    speech = samples[loud[0] : loud[-1] + 1]
    fade = 5 * RATE // 1000
    for at in range(min(fade, len(speech))):
        speech[at] *= at / fade
        speech[-1 - at] *= at / fade
    return [0.0] * lead + speech + [0.0] * tail


def finish(samples):
    """Brings samples to TARGET_LUFS with no peak above PEAK."""
    for _ in range(4):
        gain = 10 ** ((TARGET_LUFS - loudness(samples)) / 20)
        samples = limit([sample * gain for sample in samples])
    return samples


def limit(samples):
    """Turns the volume down smoothly around each peak that would be too high."""
    window = 4 * RATE // 1000
    need = [min(1.0, PEAK / max(abs(sample), 1e-9)) for sample in samples]
    held = [min(need[max(0, at - window) : at + window + 1]) for at in range(len(need))]
    smooth = []
    for at in range(len(held)):
        around = held[max(0, at - window // 2) : at + window // 2 + 1]
        smooth.append(sum(around) / len(around))
    return [sample * gain for sample, gain in zip(samples, smooth)]


def loudness(samples):
    """Integrated loudness in LUFS (ITU-R BS.1770-4), of mono."""
    weighted = biquad(samples, *high_shelf())
    weighted = biquad(weighted, *high_pass())
    block, step = 400 * RATE // 1000, 100 * RATE // 1000
    starts = range(0, max(1, len(weighted) - block + 1), step)
    powers = [sum(s * s for s in weighted[at : at + block]) / block for at in starts]
    level = lambda power: -0.691 + 10 * math.log10(power + 1e-12)
    mean = lambda values: sum(values) / max(1, len(values))
    audible = [power for power in powers if level(power) > -70]
    gate = level(mean(audible)) - 10
    return level(mean([power for power in audible if level(power) > gate]))


def high_shelf():
    """The first filter of K-weighting, for our rate."""
    gain, q, k = 3.999843853973347, 0.7071752369554196, math.tan(math.pi * 1681.974450955533 / RATE)
    vh = 10 ** (gain / 20)
    vb = vh**0.4996667741545416
    a0 = 1 + k / q + k * k
    b = [(vh + vb * k / q + k * k) / a0, 2 * (k * k - vh) / a0, (vh - vb * k / q + k * k) / a0]
    return b, [2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]


def high_pass():
    """The second filter of K-weighting, for our rate."""
    q, k = 0.5003270373238773, math.tan(math.pi * 38.13547087602444 / RATE)
    a0 = 1 + k / q + k * k
    return [1.0, -2.0, 1.0], [2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]


def biquad(samples, b, a):
    x1 = x2 = y1 = y2 = 0.0
    out = []
    for x in samples:
        y = b[0] * x + b[1] * x1 + b[2] * x2 - a[0] * y1 - a[1] * y2
        x1, x2, y1, y2 = x, x1, y, y1
        out.append(y)
    return out


def beep():
    count = BEEP_MS * RATE // 1000
    fade = BEEP_FADE_MS * RATE // 1000
    wavy = (math.sin(2 * math.pi * BEEP_HZ * at / RATE) for at in range(count))
    edges = (min(at, count - 1 - at, fade) / fade for at in range(count))
    return [BEEP_AMPLITUDE * sample * edge for sample, edge in zip(wavy, edges)]


def write(path, samples):
    raw = array.array("h", (max(-32768, min(32767, round(sample * 32768))) for sample in samples))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(raw.tobytes())


def write_manifest(entries):
    lines = [
        "# What each prompt says. Written by make.py.",
        "",
        "[beep]",
        'file = "beep.wav"',
        f"frequency_hz = {BEEP_HZ}",
        f"duration_ms = {BEEP_MS}",
    ]
    for language, name, text, (engine, voice, speed), samples in entries:
        lines += [
            "",
            "[[prompt]]",
            f'language = "{language}"',
            f'name = "{name}"',
            f'file = "{language}/{name}.wav"',
            f'text = "{text}"',
            f'voice = "{engine} {voice}{f" at {speed} words a minute" if speed else ""}"',
            f'licence = "{LICENCES[engine]}"',
            f"duration_ms = {len(samples) * 1000 // RATE}",
        ]
    (HERE / "manifest.toml").write_text("\n".join(lines) + "\n")


def compare():
    print("| language | voice | words a minute | crest dB | 300-3400 Hz | 1-3.4 kHz | modulation dB |")
    print("|---|---|---|---|---|---|---|")
    for language, voices in CANDIDATES.items():
        text = TEXTS[language]["greeting"]
        for voice in voices:
            samples = trim(speak(voice, text))
            seconds = (len(samples) - (LEAD_MS + TAIL_MS) * RATE // 1000) / RATE
            power = mean_square(samples)
            crest = 10 * math.log10(max(s * s for s in samples) / power)
            print(
                f"| {language} | {voice[0]} {voice[1]} | {len(text.split()) * 60 / seconds:.0f} | {crest:.1f} "
                f"| {band(samples, 300, 3400):.0%} | {band(samples, 1000, 3400):.0%} | {modulation(samples):.1f} |"
            )


def mean_square(samples):
    return sum(s * s for s in samples) / len(samples)


def band(samples, low, high):
    """The share of the power that lies between two frequencies."""
    size, inside, whole = 256, 0.0, 0.0
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / size) for n in range(size)]
    turns = [(math.cos(2 * math.pi * n / size), math.sin(2 * math.pi * n / size)) for n in range(size)]
    for at in range(0, len(samples) - size, size):
        frame = [s * w for s, w in zip(samples[at : at + size], window)]
        for bin in range(1, size // 2):
            re = sum(s * turns[bin * n % size][0] for n, s in enumerate(frame))
            im = sum(s * turns[bin * n % size][1] for n, s in enumerate(frame))
            power = re * re + im * im
            whole += power
            if low <= bin * RATE / size <= high:
                inside += power
    return inside / whole


def modulation(samples):
    """How far loud and soft moments lie apart: the 90th above the 20th percentile of 20 ms."""
    size = RATE // 50
    levels = sorted(
        10 * math.log10(mean_square(samples[at : at + size]) + 1e-9)
        for at in range(LEAD_MS * RATE // 1000, len(samples) - TAIL_MS * RATE // 1000 - size, size)
    )
    return levels[len(levels) * 9 // 10] - levels[len(levels) // 5]


if __name__ == "__main__":
    main()
