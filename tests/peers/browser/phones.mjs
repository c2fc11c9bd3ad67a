// The same telephone twice, made of two libraries. `dial` gives its RTCPeerConnection once the call is answered.
import JsSIP from "jssip";
import { Inviter, SessionState, UserAgent, Web } from "sip.js";

const FROM = "sip:+4787654321@browser.example";
const CONNECTION = { iceServers: [] };

export class JsSipPhone {
  async dial({ server, target, headers }, stream, { prepare, ended }) {
    const ua = new JsSIP.UA({ sockets: [new JsSIP.WebSocketInterface(server)], uri: FROM, register: false });
    await new Promise((resolve) => ua.on("connected", resolve).start());
    return new Promise((resolve, reject) => {
      this.session = ua.call(target, {
        mediaStream: stream,
        pcConfig: CONNECTION,
        extraHeaders: headers,
        eventHandlers: {
          peerconnection: ({ peerconnection }) => prepare(peerconnection),
          confirmed: () => resolve(this.session.connection),
          failed: ({ cause, message }) => reject(new Error(`${cause} ${message?.status_code}`)),
          ended: ({ originator }) => ended(originator),
        },
      });
    });
  }
  hold = () => this.#renegotiated((done) => this.session.hold({}, done));
  resume = () => this.#renegotiated((done) => this.session.unhold({}, done));
  restartIce = () =>
    this.#renegotiated((done) => this.session.renegotiate({ rtcOfferConstraints: { iceRestart: true } }, done));
  press = (key) => this.session.sendDTMF(key, { transportType: "RFC2833" });
  hangUp = () => this.session.terminate();

  #renegotiated(ask) {
    return new Promise((resolve, reject) => {
      this.session.once("failed", reject);
      if (!ask(resolve)) reject(new Error("JsSIP is not ready for it"));
    });
  }
}

export class SipJsPhone {
  async dial({ server, target, headers, leavesTheOffer }, stream, { prepare, ended }) {
    const ua = new UserAgent({
      uri: UserAgent.makeURI(FROM),
      transportOptions: { server },
      logLevel: "error",
      sessionDescriptionHandlerFactory: Web.defaultSessionDescriptionHandlerFactory(async () => stream),
      sessionDescriptionHandlerFactoryOptions: { peerConnectionConfiguration: CONNECTION },
    });
    await ua.start();
    this.session = new Inviter(ua, UserAgent.makeURI(target), {
      extraHeaders: headers,
      inviteWithoutSdp: leavesTheOffer,
    });
    let originator = "local";
    this.session.delegate = {
      onSessionDescriptionHandler: ({ peerConnection }) => prepare(peerConnection),
      onBye: () => (originator = "remote"),
    };
    this.session.stateChange.addListener((state) => state === SessionState.Terminated && ended(originator));
    await this.#accepted((delegate) => this.session.invite(delegate));
    return this.session.sessionDescriptionHandler.peerConnection;
  }
  hold = () => this.#describe({ hold: true });
  resume = () => this.#describe({ hold: false });
  restartIce = () => this.#describe({ offerOptions: { iceRestart: true } });
  press = (key) => this.session.sessionDescriptionHandler.sendDtmf(key);
  hangUp = () => this.session.bye();

  #describe(options) {
    this.session.sessionDescriptionHandlerOptionsReInvite = options;
    return this.#accepted((delegate) => this.session.invite(delegate));
  }

  #accepted(invite) {
    return new Promise((resolve, reject) => {
      const refused = ({ message }) => reject(new Error(`${message.statusCode} ${message.reasonPhrase}`));
      invite({ requestDelegate: { onAccept: resolve, onReject: refused } }).catch(reject);
    });
  }
}
