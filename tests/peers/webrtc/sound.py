"""Tones, made and heard, at 8 kHz."""

import array
import asyncio
import cmath
import math

RATE = 8000
FRAME = 160
# A tone that was not heard for so long is over.
GONE_SECONDS = 0.2


def tone(hz, ms):
    return array.array("h", (int(9830 * math.sin(2 * math.pi * hz * n / RATE)) for n in range(RATE * ms // 1000)))


def level(samples, hz):
    turn = cmath.exp(-2j * math.pi * hz / RATE)
    total, factor = 0j, 1 + 0j
    for sample in samples:
        total += sample * factor
        factor *= turn
    return 2 * abs(total) / len(samples) / 32767


class Ear:
    """Keeps what it hears; `over` is set when the tone has been there and is gone.

    Who records need not send, so that it is gone when nothing comes any more, as well as when silence does.
    """

    def __init__(self, hz):
        self.hz, self.samples, self.over = hz, array.array("h"), asyncio.Event()
        self.looked, self.gone = 0, None

    def hear(self, samples):
        self.samples.extend(samples)
        while len(self.samples) - self.looked >= FRAME:
            frame = self.samples[self.looked : self.looked + FRAME]
            self.looked += FRAME
            if level(frame, self.hz) > 0.1:
                if self.gone:
                    self.gone.cancel()
                self.gone = asyncio.get_running_loop().call_later(GONE_SECONDS, self.over.set)
