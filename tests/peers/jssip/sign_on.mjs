// A browser's SIP stack over WebSocket signs on as a number, calls another one, and signs off.
//
//   node sign_on.mjs ws://127.0.0.1:5072 +4799990010 sandbox +4799990011
//
// Prints a line for each thing that happened. There is no WebRTC here.
import JsSIP from "jssip";
import { end } from "./without_webrtc.mjs";

const [url, number, password, other] = process.argv.slice(2);

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
