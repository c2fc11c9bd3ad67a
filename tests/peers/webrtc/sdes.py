"""A call whose media libsrtp protects, with keys in the description (RFC 4568): PCMA only.

    python sdes.py '{"transport":"udp","server":"127.0.0.1:5060","target":"sip:+4799990001@127.0.0.1","headers":[],
                     "suite":"AES_CM_128_HMAC_SHA1_80","profile":"RTP/SAVP","voice_hz":1000,"voice_ms":2000,"beep_hz":660}'

Offers a suite that nobody has, and then `suite`. Prints as JSON what it heard, and the descriptions.
"""

import array
import asyncio
import base64
import json
import re
import secrets
import struct
import sys

import av
from pylibsrtp import Error, Policy, Session

from sip import Call
from sound import FRAME, Ear, tone
from suites import SUITES

PCMA = 8


def codec(direction):
    made = av.CodecContext.create("pcm_alaw", direction)
    made.sample_rate, made.layout, made.format = 8000, "mono", "s16"
    return made


class Media(asyncio.DatagramProtocol):
    def __init__(self, ear):
        self.ear, self.receiver, self.decoder, self.refused = ear, None, codec("r"), 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, _):
        if self.receiver is None or data[1] & 0x7F != PCMA:
            return
        try:
            packet = self.receiver.unprotect(data)
        except Error:
            self.refused += 1
            return
        for frame in self.decoder.decode(av.Packet(packet[12:])):
            self.ear.hear(array.array("h", bytes(frame.planes[0])[: 2 * frame.samples]))


async def speak(media, session, address, saying):
    """Sends a packet every 20 ms: what is to be said, and silence."""
    encoder, begun = codec("w"), asyncio.get_running_loop().time()
    ssrc, sequence = secrets.randbits(32), secrets.randbits(14)
    for number in range(10_000):
        said = array.array("h", saying[:FRAME])
        del saying[:FRAME]
        said.extend([0] * (FRAME - len(said)))
        frame = av.AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(said.tobytes())
        frame.sample_rate = 8000
        payload = b"".join(bytes(packet) for packet in encoder.encode(frame))
        head = struct.pack("!BBHII", 0x80, PCMA, (sequence + number) & 0xFFFF, number * FRAME, ssrc)
        media.transport.sendto(session.protect(head + payload), address)
        await asyncio.sleep(max(0, begun + 0.02 * (number + 1) - asyncio.get_running_loop().time()))


async def main(plan):
    profile, length = SUITES[plan["suite"]]
    key = secrets.token_bytes(length)
    ear = Ear(plan["beep_hz"])
    loop = asyncio.get_running_loop()
    _, media = await loop.create_datagram_endpoint(lambda: Media(ear), local_addr=("127.0.0.1", 0))
    port = media.transport.get_extra_info("sockname")[1]
    lines = [
        "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
        f"m=audio {port} {plan['profile']} {PCMA}",
        f"a=rtpmap:{PCMA} PCMA/8000",
        f"a=crypto:4 F8_128_HMAC_SHA1_80 inline:{base64.b64encode(bytes(30)).decode()}",
        f"a=crypto:7 {plan['suite']} inline:{base64.b64encode(key).decode()}|2^31",
    ]
    offer = "".join(line + "\r\n" for line in lines)
    call = Call()
    answer = await call.dial(plan["transport"], plan["server"], plan["target"], plan["headers"], offer)
    call.acknowledge()
    chosen = re.findall(r"a=crypto:(\d+) (\S+) inline:([^\s|]+)", answer)
    assert [line[:2] for line in chosen] == [("7", plan["suite"])], answer
    their_key = base64.b64decode(chosen[0][2])
    assert len(their_key) == length and their_key != key, answer
    their_port = int(re.search(r"m=audio (\d+) ", answer).group(1))

    media.receiver = Session(Policy(key=their_key, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
    sender = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))
    saying = array.array("h")
    speaking = asyncio.ensure_future(speak(media, sender, ("127.0.0.1", their_port), saying))
    await asyncio.wait_for(ear.over.wait(), 20)
    saying.extend(tone(plan["voice_hz"], plan["voice_ms"]))
    while saying:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    await asyncio.wait_for(call.hang_up(), 10)
    speaking.cancel()
    heard = base64.b64encode(ear.samples.tobytes()).decode()
    print(json.dumps({"heard": heard, "refused": media.refused, "offer": offer, "answer": answer}))


asyncio.run(asyncio.wait_for(main(json.loads(sys.argv[1])), 60))
