// A call from a page in a browser: SIP by a library, media by the browser itself.
//
//   node call.mjs '{"browser":"/usr/bin/chromium","library":"jssip","server":"ws://127.0.0.1:5066",
//                   "target":"sip:+4799990001@127.0.0.1","headers":[],"voice":"voice.wav","voiceHz":1000,"voiceMs":2000,
//                   "beepHz":660,"story":["hear the beep","hang up"]}'
//
// Does the steps of the story one after the other, closes the page, and prints as JSON what was heard and what the
// browser knew of the connection after each step. `voice` is what the microphone hears; without it the page speaks by
// itself. `trusted` is the hash of the key (SPKI, SHA-256, Base64) that a server may have although nobody vouches for
// it, `codec` the only one to offer. With `hidesAddresses` the page may not yet use the microphone when it calls, with
// `leavesTheOffer` it sends none.
import { fileURLToPath } from "node:url";
import esbuild from "esbuild";
import { withBrowser } from "./browser.mjs";

const plan = JSON.parse(process.argv[2]);
const STEP_TIMEOUT_MS = 20_000;
const PAGE = "http://localhost/";

const { outputFiles } = await esbuild.build({
  entryPoints: [fileURLToPath(new URL("page.mjs", import.meta.url))],
  bundle: true,
  write: false,
  logLevel: "error",
});
const switches = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"];
if (plan.voice) switches.push(`--use-file-for-fake-audio-capture=${plan.voice}%noloop`);
if (plan.trusted) switches.push(`--ignore-certificate-errors-spki-list=${plan.trusted}`);

async function inTime(what, doing) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing for ${STEP_TIMEOUT_MS} ms`)), STEP_TIMEOUT_MS);
  });
  try {
    return await Promise.race([doing, late]);
  } finally {
    clearTimeout(timer);
  }
}

const said = [];

async function call(browser) {
  // Firefox asks nobody.
  const allow = (names) => plan.voice && browser.defaultBrowserContext().overridePermissions(PAGE, names);
  await allow(plan.hidesAddresses ? [] : ["microphone"]);
  const page = await browser.newPage();
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(error.stack));
  await page.setRequestInterception(true);
  const empty = { contentType: "text/html", body: "<!doctype html><title>phone" };
  page.on("request", (request) => (request.url() === PAGE ? request.respond(empty) : request.continue()));
  await page.goto(PAGE);
  await page.addScriptTag({ content: outputFiles[0].text });
  const steps = {};
  for (const name of ["dial", ...plan.story]) {
    if (name === "speak") await allow(["microphone"]);
    steps[name] = await inTime(name, page.evaluate((name, plan) => window.step(name, plan), name, plan));
  }
  const heard = await page.evaluate(() => window.heard());
  return { ...heard, steps, version: await browser.version() };
}

try {
  console.log(JSON.stringify(await withBrowser(plan.browser, switches, call)));
} catch (error) {
  console.error(error.stack, said.join("\n"));
  process.exitCode = 1;
}
