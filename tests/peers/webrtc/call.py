"""A call by aiortc: hears the greeting, says a tone after the beep, and hangs up.

    python call.py '{"transport":"udp","server":"127.0.0.1:5060","target":"sip:+4799990001@127.0.0.1","headers":[],
                     "codec":"opus","setup":"actpass","late":false,"voice_hz":1000,"voice_ms":2000,"beep_hz":660}'

Prints as JSON what it heard and what it knows of the connection. `setup` is the part that it offers to take in DTLS;
with `late` it leaves the offer to the other side. `address` is its own for media, 127.0.0.1 if there is none.
"""

import array
import asyncio
import base64
import fractions
import json
import sys
import time

import aioice.ice
import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from sip import Call
from sound import FRAME, RATE, Ear, tone

class Voice(MediaStreamTrack):
    """Silence, and in it what it is told to say."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.samples, self.sent, self.begun = array.array("h"), 0, None

    async def recv(self):
        self.begun = self.begun or time.monotonic()
        await asyncio.sleep(max(0, self.begun + self.sent / RATE - time.monotonic()))
        said, self.samples = self.samples[:FRAME], self.samples[FRAME:]
        said.extend([0] * (FRAME - len(said)))
        frame = av.AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(said.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.sent, fractions.Fraction(1, RATE)
        self.sent += FRAME
        return frame

    async def say(self, samples):
        self.samples = samples
        # And what is under way arrives.
        await asyncio.sleep(len(samples) / RATE + 0.2)


async def listen(track, ear):
    narrow = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        for heard in narrow.resample(frame):
            ear.hear(array.array("h", bytes(heard.planes[0])[: 2 * heard.samples]))


async def main(plan):
    # All stays on this machine.
    address = plan.get("address", "127.0.0.1")
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [address]
    connection, voice, ear = RTCPeerConnection(), Voice(), Ear(plan["beep_hz"])
    connection.on("track", lambda track: asyncio.ensure_future(listen(track, ear)))
    connection.addTrack(voice)
    if plan["codec"]:
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        wanted = [codec for codec in codecs if codec.mimeType.lower() == "audio/" + plan["codec"]]
        connection.getTransceivers()[0].setCodecPreferences(wanted)

    call = Call()
    place = (plan["transport"], plan["server"], plan["target"], plan["headers"])
    if plan["late"]:
        theirs = await call.dial(*place, None)
        await connection.setRemoteDescription(RTCSessionDescription(theirs, "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        ours = connection.localDescription.sdp
        call.acknowledge(ours)
    else:
        await connection.setLocalDescription(await connection.createOffer())
        ours = connection.localDescription.sdp.replace("a=setup:actpass", "a=setup:" + plan["setup"])
        theirs = await call.dial(*place, ours)
        call.acknowledge()
        await connection.setRemoteDescription(RTCSessionDescription(theirs, "answer"))

    await asyncio.wait_for(ear.over.wait(), 20)
    await voice.say(tone(plan["voice_hz"], plan["voice_ms"]))
    dtls = connection.getTransceivers()[0].sender.transport
    stats = await connection.getStats()
    lost = [report.packetsLost for report in stats.values() if report.type == "inbound-rtp"]
    known = {
        "role": dtls._role,
        "state": dtls.state,
        "ice": dtls.transport.state,
        "cipher": dtls._ssl.get_cipher_name(),
        "srtp": dtls._ssl.get_selected_srtp_profile().decode(),
        "lost": lost,
    }
    await asyncio.wait_for(call.hang_up(), 10)
    await connection.close()
    heard = base64.b64encode(ear.samples.tobytes()).decode()
    print(json.dumps({"heard": heard, "offer": ours, "answer": theirs, **known}))


asyncio.run(asyncio.wait_for(main(json.loads(sys.argv[1])), 60))
