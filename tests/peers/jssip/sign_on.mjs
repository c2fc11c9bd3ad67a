// A browser's SIP stack over WebSocket signs on as a number, calls another one, and signs off.
//
//   node --experimental-websocket sign_on.mjs ws://127.0.0.1:5072 +4799990010 sandbox +4799990011
//
// Prints a line for each thing that happened. There is no WebRTC here.
import JsSIP from "jssip";

const [url, number, password, other] = process.argv.slice(2);

const DESCRIPTION = [
  "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
  "m=audio 9 RTP/AVP 8", "a=rtpmap:8 PCMA/8000", "",
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
  uri: `sip:${number}@127.0.0.1`,
  password,
  register: true,
  register_expires: 120,
});

ua.on("registered", () => {
  console.log("registered");
  ua.call(`sip:${other}@127.0.0.1`, {
    mediaStream: { getTracks: () => [] },
    eventHandlers: {
      failed: ({ message }) => {
        console.log("call", message?.status_code);
        ua.unregister();
      },
      confirmed: () => end(1, "the call was answered"),
    },
  });
});
ua.on("registrationFailed", ({ response }) => end(2, "refused", response?.status_code));
ua.on("unregistered", () => end(0, "unregistered"));
ua.start();
