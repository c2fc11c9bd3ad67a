"""As much of SIP as it takes to place a call over UDP or TCP and to end it."""

import asyncio
import re
import secrets


def header(message, name):
    found = re.search(rf"^{name}\s*:\s*(.*?)\r?$", message, re.M | re.I)
    return found.group(1) if found else None


def body(message):
    return message.split("\r\n\r\n", 1)[1]


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, messages):
        self.messages = messages

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, _):
        self.messages.put_nowait(data.decode())

    def send(self, message):
        self.transport.sendto(message.encode())


class Stream:
    def __init__(self, reader, writer, messages):
        self.writer = writer
        self.task = asyncio.ensure_future(self.read(reader, messages))

    async def read(self, reader, messages):
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                return
            content = await reader.readexactly(int(header(head, "Content-Length") or 0))
            messages.put_nowait(head + content.decode())

    def send(self, message):
        self.writer.write(message.encode())


async def connect(transport, host, port, messages):
    if transport == "udp":
        loop = asyncio.get_running_loop()
        _, datagrams = await loop.create_datagram_endpoint(lambda: Datagrams(messages), remote_addr=(host, port))
        return datagrams, datagrams.transport.get_extra_info("sockname")
    reader, writer = await asyncio.open_connection(host, port)
    return Stream(reader, writer, messages), writer.get_extra_info("sockname")


class Call:
    """A call to `target`. `ended` is set when the other side has hung up."""

    async def dial(self, transport, server, target, headers, offer):
        host, port = server.rsplit(":", 1)
        self.messages = asyncio.Queue()
        self.ended = asyncio.Event()
        self.transport = transport.upper()
        self.wire, (ip, own_port) = await connect(transport, host, int(port), self.messages)
        self.own = f"{ip}:{own_port}"
        self.call_id, self.tag = secrets.token_hex(8), secrets.token_hex(4)
        self.target, self.to, self.cseq = target, f"<{target}>", 1
        self.request("INVITE", offer, headers)
        while True:
            answer = await self.messages.get()
            status = answer.split(" ", 2)[1]
            if status.startswith("1"):
                continue
            if status != "200":
                raise RuntimeError(answer.splitlines()[0])
            self.to = header(answer, "To")
            self.target = re.search(r"<(.*?)>", header(answer, "Contact")).group(1)
            return body(answer)

    def request(self, method, description=None, headers=()):
        lines = [
            f"{method} {self.target} SIP/2.0",
            f"Via: SIP/2.0/{self.transport} {self.own};rport;branch=z9hG4bK{secrets.token_hex(8)}",
            f"From: <sip:+4787654321@{self.own}>;tag={self.tag}",
            f"To: {self.to}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq} {method}",
            f"Contact: <sip:{self.own};transport={self.transport.lower()}>",
            "Max-Forwards: 70",
            *headers,
        ]
        description = description or ""
        if description:
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(description)}")
        self.wire.send("\r\n".join(lines) + "\r\n\r\n" + description)

    def acknowledge(self, answer=None):
        self.request("ACK", answer)
        self.following = asyncio.ensure_future(self.follow())

    async def follow(self):
        """Takes what comes in the call, until it has ended."""
        while not self.ended.is_set():
            message = await self.messages.get()
            if message.startswith("BYE") or (message.startswith("SIP/2.0 200") and "BYE" in header(message, "CSeq")):
                if message.startswith("BYE"):
                    self.answer_bye(message)
                self.ended.set()

    def answer_bye(self, request):
        copied = "".join(f"{name}: {header(request, name)}\r\n" for name in ("Via", "From", "To", "Call-ID", "CSeq"))
        self.wire.send(f"SIP/2.0 200 OK\r\n{copied}Content-Length: 0\r\n\r\n")

    async def hang_up(self):
        self.cseq += 1
        self.request("BYE")
        await self.ended.wait()
