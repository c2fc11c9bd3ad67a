// What the page does in a call, step by step.
import { Ear } from "./ear.mjs";
import { JsSipPhone, SipJsPhone } from "./phones.mjs";

const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

let plan, phone, connection, ear, descriptions, endedBy;
const end = Promise.withResolvers();

/** Nothing to say yet; packets come all the same. */
function silence() {
  const context = new AudioContext();
  const destination = context.createMediaStreamDestination();
  const nothing = new ConstantSourceNode(context, { offset: 0 });
  nothing.connect(destination);
  nothing.start();
  return destination.stream;
}

/** A tone for as long as the plan says. */
function tone() {
  const context = new AudioContext();
  const destination = context.createMediaStreamDestination();
  const voice = new OscillatorNode(context, { frequency: plan.voiceHz });
  voice.connect(new GainNode(context, { gain: 0.3 })).connect(destination);
  const begin = context.currentTime + 0.1;
  voice.start(begin);
  voice.stop(begin + plan.voiceMs / 1000);
  return destination.stream;
}

/** Has every offer name this codec and telephone-events only. */
function offerOnly(connection, codec) {
  const wanted = [`audio/${codec}`, "audio/telephone-event"];
  const codecs = RTCRtpSender.getCapabilities("audio").codecs.filter(({ mimeType }) => wanted.includes(mimeType));
  const createOffer = connection.createOffer.bind(connection);
  connection.createOffer = (options) => {
    connection.getTransceivers()[0].setCodecPreferences(codecs);
    return createOffer(options);
  };
}

const steps = {
  async dial() {
    // Firefox lets only pages that hold a microphone call from other addresses than the machine's main one.
    if (!plan.voice) await navigator.mediaDevices.getUserMedia({ audio: true });
    phone = plan.library === "jssip" ? new JsSipPhone() : new SipJsPhone();
    // Open before the first packet comes.
    ear = await Ear.open();
    const prepare = (made) => {
      made.addEventListener("track", ({ track }) => ear.listenTo(track), { once: true });
      if (plan.codec) offerOnly(made, plan.codec);
    };
    connection = await phone.dial(plan, silence(), { prepare, ended: end.resolve });
  },
  "hear the beep": () => ear.untilAfter(plan.beepHz),
  // The microphone says its file from the beginning each time it is opened.
  async speak() {
    const own = await Ear.open();
    const voice = plan.voice ? await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS }) : tone();
    const { 0: microphone } = voice.getTracks();
    own.listenTo(microphone);
    await connection.getSenders()[0].replaceTrack(microphone);
    await own.untilAfter(plan.voiceHz);
    await connection.getSenders()[0].replaceTrack(silence().getTracks()[0]);
    microphone.stop();
  },
  hold: () => phone.hold(),
  resume: () => phone.resume(),
  "restart ICE": () => phone.restartIce(),
  "press #": () => phone.press("#"),
  "hang up": () => phone.hangUp(),
  "hear the end": async () => {
    endedBy = await end.promise;
  },
};

/** What is known of the connection: a browser's own view, made short. */
async function connectionStats() {
  const all = [...(await connection.getStats()).values()];
  const dtls = connection.getSenders()[0].transport;
  const { tlsVersion, srtpCipher } = all.find(({ type }) => type === "transport");
  const sent = all.find(({ type }) => type === "outbound-rtp");
  const codec = all.find(({ id }) => id === sent?.codecId);
  const received = all.find(({ type }) => type === "inbound-rtp");
  return {
    tlsVersion, srtpCipher, dtlsState: dtls.state, iceState: dtls.iceTransport.state,
    codec: codec?.mimeType, received: received?.packetsReceived, lost: received?.packetsLost,
  };
}

/** Does a step; gives what is to be told of it. */
window.step = async (name, thePlan) => {
  plan = thePlan;
  await steps[name]();
  if (connection.signalingState === "closed") return { stats: null };
  descriptions = { own: connection.localDescription.sdp, theirs: connection.remoteDescription.sdp };
  return { stats: await connectionStats() };
};
window.heard = () => ({ heard: ear.text(), endedBy, ...descriptions });
