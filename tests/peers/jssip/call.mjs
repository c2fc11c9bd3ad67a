// A browser's SIP stack over WebSocket: asks the options of a URI, calls it, and hangs up once it is answered.
//
//   node --experimental-websocket call.mjs ws://127.0.0.1:5066 sip:+4799990001@127.0.0.1
//
// Prints a line for each thing that happened. There is no WebRTC here: the description offered is that of a phone
// with plain RTP, whose packets nobody takes.
import JsSIP from "jssip";

const [url, target] = process.argv.slice(2);

const DESCRIPTION = [
  "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
  "m=audio 9 RTP/AVP 8 101", "a=rtpmap:8 PCMA/8000", "a=rtpmap:101 telephone-event/8000", "",
].join("\r\n");

globalThis.window = globalThis;
globalThis.RTCSessionDescription = class {
  constructor(description) { Object.assign(this, description); }
};
globalThis.RTCPeerConnection = class {
  iceGatheringState = "complete";
  iceConnectionState = "connected";
  signalingState = "stable";
  addEventListener() {}
  removeEventListener() {}
  addTrack() {}
  getSenders() { return []; }
  async createOffer() { return { type: "offer", sdp: DESCRIPTION }; }
  async setLocalDescription(description) { this.localDescription = description; }
  async setRemoteDescription() {}
  close() { this.signalingState = "closed"; }
};

const end = (status, ...words) => {
  console.log(...words);
  process.exit(status);
};
setTimeout(() => end(1, "nothing happened for 20 s"), 20_000);

const ua = new JsSIP.UA({
  sockets: [new JsSIP.WebSocketInterface(url)],
  uri: "sip:+4787654321@browser.example",
  register: false,
  session_timers: true,
});

function call() {
  ua.call(target, {
    mediaStream: { getTracks: () => [] },
    extraHeaders: ["Diversion: <sip:+4799990001@browser.example>;reason=user-busy"],
    eventHandlers: {
      failed: ({ cause, message }) => end(1, "failed", cause, message?.status_code),
      confirmed() {
        console.log("confirmed");
        setTimeout(() => this.terminate(), 200);
      },
      ended: ({ originator, cause }) => {
        console.log("ended", originator, cause);
        // The 200 to the BYE ends its transaction, without which stop() would wait.
        ua.on("disconnected", () => end(0, "stopped"));
        ua.stop();
      },
    },
  });
}

ua.on("connected", () => {
  console.log("connected");
  ua.sendOptions(target, "", {
    eventHandlers: {
      succeeded({ response }) {
        console.log("options", response.status_code, response.getHeader("Allow"));
        call();
      },
      failed: ({ cause }) => end(1, "options failed", cause),
    },
  });
});
ua.start();
