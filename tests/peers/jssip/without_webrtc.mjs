// What JsSIP needs of a browser. There is no WebRTC here: the description offered is that of a phone with plain RTP,
// whose packets nobody takes.
import WebSocket from "ws";

const DESCRIPTION = [
  "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
  "m=audio 9 RTP/AVP 8 101", "a=rtpmap:8 PCMA/8000", "a=rtpmap:101 telephone-event/8000", "",
].join("\r\n");

globalThis.window = globalThis;
globalThis.WebSocket = WebSocket;
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

export const end = (status, ...words) => {
  console.log(...words);
  process.exit(status);
};
setTimeout(() => end(1, "nothing happened for 20 s"), 20_000);
