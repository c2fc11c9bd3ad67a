// Plays every message of a subscriber's inbox in a browser, one after the other.
//
//   node play.mjs '{"browser":"/usr/bin/chromium","page":"http://127.0.0.1:8080/","cookie":["name","value"]}'
//
// Prints as JSON, of each message: which of the recording's forms was taken, its length, the loudest tone, and how it
// was answered when it was asked for. It fails where the page does not hold the message to be heard then.
import { withBrowser } from "./browser.mjs";

const plan = JSON.parse(process.argv[2]);
const STEP_TIMEOUT_MS = 20_000;

/** Plays to the middle and listens, leaps towards the end, and plays on to it. */
async function play(audio) {
  const until = (event) =>
    new Promise((resolve, reject) => {
      audio.addEventListener(event, resolve, { once: true });
      audio.addEventListener("error", () => reject(new Error(audio.error.message)), { once: true });
    });
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 8192 });
  context.createMediaElementSource(audio).connect(analyser).connect(context.destination);
  await context.resume();
  await audio.play();
  const bins = new Float32Array(analyser.frequencyBinCount);
  const loudest = { level: -Infinity, bin: 0 };
  while (audio.currentTime < audio.duration / 2) {
    await until("timeupdate");
    analyser.getFloatFrequencyData(bins);
    const level = Math.max(...bins);
    if (level > loudest.level) Object.assign(loudest, { level, bin: bins.indexOf(level) });
  }
  // A busy browser may be at the end already; from a pause it plays on all the same.
  audio.pause();
  const sought = until("seeked");
  audio.currentTime = audio.duration * 0.9;
  await sought;
  const ended = until("ended");
  await audio.play();
  await ended;
  const { duration, currentSrc, currentTime } = audio;
  return { duration, currentSrc, currentTime, hz: (loudest.bin * context.sampleRate) / analyser.fftSize };
}

async function playAll(browser) {
  const [name, value] = plan.cookie;
  await browser.setCookie({ name, value, domain: new URL(plan.page).hostname, path: "/" });
  const page = await browser.newPage();
  page.setDefaultTimeout(STEP_TIMEOUT_MS);
  const answers = [];
  page.on("response", (response) => answers.push({ url: response.url(), status: response.status() }));
  await page.goto(plan.page);
  const played = [];
  for (const row of await page.$$("#messages > li")) {
    const audio = await row.$("audio");
    const result = await audio.evaluate(play);
    await page.waitForFunction((row) => !row.classList.contains("new"), {}, row);
    played.push({ ...result, answers: answers.filter(({ url }) => url === result.currentSrc) });
  }
  return played;
}

try {
  console.log(JSON.stringify(await withBrowser(plan.browser, [], playAll)));
} catch (error) {
  console.error(error.stack);
  process.exitCode = 1;
}
