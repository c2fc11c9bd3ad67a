// Hears a track: keeps its samples at 8 kHz, and knows which tone is in them now.
const RATE = 8000;
const FRAME = 160;
// A tone that was not heard for so long is over; what is under way has arrived by then.
const GONE_FRAMES = 10;

// Runs beside the page, where the samples come by.
const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage(samples);
    return true;
  }
});`;

/** The amplitude with which a frequency is in the samples: 1 for a full scale sine (Goertzel). */
function level(samples, hz) {
  const turn = 2 * Math.cos((2 * Math.PI * hz) / RATE);
  let [last, before] = [0, 0];
  for (const sample of samples) [last, before] = [sample + turn * last - before, last];
  return (2 * Math.sqrt(Math.max(0, last ** 2 + before ** 2 - turn * last * before))) / samples.length;
}

export class Ear {
  samples = [];
  #waiting = [];

  /** One that hears nothing yet. */
  static async open() {
    const ear = new Ear();
    ear.context = new AudioContext({ sampleRate: RATE });
    await ear.context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" })));
    ear.tap = new AudioWorkletNode(ear.context, "tap");
    ear.tap.port.onmessage = ({ data }) => ear.#hear(data);
    return ear;
  }

  listenTo(track) {
    const stream = new MediaStream([track]);
    // Chromium plays what comes from afar only where an element asks for it.
    this.element = Object.assign(new Audio(), { srcObject: stream, muted: true });
    this.context.createMediaStreamSource(stream).connect(this.tap);
  }

  #hear(samples) {
    this.samples.push(...samples);
    const whole = this.samples.length - (this.samples.length % FRAME);
    const frame = this.samples.slice(whole - FRAME, whole);
    if (frame.length === FRAME) this.#waiting = this.#waiting.filter((isOver) => !isOver(frame));
  }

  /** Until this tone has been there and is gone. */
  untilAfter(hz) {
    let heard = false;
    let quiet = 0;
    return new Promise((resolve) => {
      this.#waiting.push((frame) => {
        const now = level(frame, hz) > 0.1;
        heard ||= now;
        quiet = now ? 0 : quiet + 1;
        const isOver = heard && quiet === GONE_FRAMES;
        if (isOver) resolve();
        return isOver;
      });
    });
  }

  /** What was heard, as 16 bit samples in Base64. */
  text() {
    const samples = Int16Array.from(this.samples, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
    return btoa(Array.from(new Uint8Array(samples.buffer), (byte) => String.fromCharCode(byte)).join(""));
  }
}
