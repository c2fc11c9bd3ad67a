// A browser's SIP stack over WebSocket: asks the options of a URI, calls it, and hangs up once it is answered.
//
//   node call.mjs ws://127.0.0.1:5066 sip:+4799990001@127.0.0.1
//
// Prints a line for each thing that happened. There is no WebRTC here: the description offered is that of a phone
// with plain RTP, whose packets nobody takes.
import JsSIP from "jssip";
import { end } from "./without_webrtc.mjs";

const [url, target] = process.argv.slice(2);

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
