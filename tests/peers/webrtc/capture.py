"""Writes a capture of a voice in PCMA, a packet every 20 ms, which libsrtp protects.

    python capture.py '{"audio":"voice.alaw","suite":"AES_CM_128_HMAC_SHA1_80","key":"<key and salt in Base64>",
                        "capture":"voice.pcap"}'
"""

import base64
import json
import struct
import sys

from pylibsrtp import Policy, Session

from suites import SUITES

FRAME = 160
PCMA = 8


def datagram(payload):
    """In Ethernet, IPv4 and UDP; whoever plays it puts addresses and checksums into it."""
    udp = struct.pack("!HHHH", 6000, 6000, 8 + len(payload), 0) + payload
    loopback = bytes([127, 0, 0, 1])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + 2 * loopback
    return bytes(12) + struct.pack("!H", 0x0800) + ip + udp


def main(plan):
    profile, length = SUITES[plan["suite"]]
    key = base64.b64decode(plan["key"])
    assert len(key) == length, plan
    session = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))
    with open(plan["audio"], "rb") as audio:
        voice = audio.read()
    with open(plan["capture"], "wb") as capture:
        capture.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, begin in enumerate(range(0, len(voice), FRAME)):
            # The numbers go round in the middle.
            sequence = (65_500 + number) & 0xFFFF
            head = struct.pack("!BBHII", 0x80, PCMA, sequence, begin, 4711)
            packet = datagram(session.protect(head + voice[begin : begin + FRAME]))
            seconds, ms = divmod(20 * number, 1000)
            capture.write(struct.pack("=IIII", seconds, 1000 * ms, len(packet), len(packet)) + packet)


main(json.loads(sys.argv[1]))
