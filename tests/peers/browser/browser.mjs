// Chromium or Firefox, driven without a screen.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import puppeteer from "puppeteer-core";

const FIREFOX_PREFERENCES = {
  "media.autoplay.default": 0,
  "media.autoplay.block-webaudio": false,
  "media.navigator.permission.disabled": true,
  "media.peerconnection.ice.loopback": true,
};
// Without a screen there is nobody to protect; inside a container the sandbox cannot be built.
const CHROMIUM_SWITCHES = [
  "--no-sandbox",
  "--autoplay-policy=no-user-gesture-required",
  "--allow-loopback-in-peer-connection",
  "--disable-features=LocalNetworkAccessChecks",
];
const SOUND_TIMEOUT_MS = 10_000;
// It ends by itself when nobody ends it.
const SOUND_IDLE_S = 20;

/** What Firefox needs to take for a sound card: it is the clock of all that it plays and hears. */
async function soundCard() {
  const folder = await mkdtemp(join(tmpdir(), "sound-"));
  const socket = join(folder, "socket");
  const modules = ["module-null-sink", "module-null-source", `module-native-protocol-unix socket=${socket} auth-anonymous=1`];
  const options = ["-n", "--daemonize=no", `--exit-idle-time=${SOUND_IDLE_S}`];
  const server = spawn("pulseaudio", [...options, ...modules.map((module) => `--load=${module}`)], {
    env: { ...process.env, HOME: folder, XDG_RUNTIME_DIR: folder },
    stdio: "ignore",
  });
  const deadline = Date.now() + SOUND_TIMEOUT_MS;
  while (!existsSync(socket)) {
    if (server.exitCode !== null || Date.now() > deadline) throw new Error("pulseaudio does not start");
    await pause(20);
  }
  return {
    environment: { PULSE_SERVER: `unix:${socket}` },
    async remove() {
      if (server.kill()) await once(server, "exit");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Has `use` work with the browser that is installed there. */
export async function withBrowser(executablePath, switches, use) {
  const isFirefox = executablePath.includes("firefox");
  const sound = isFirefox ? await soundCard() : null;
  try {
    const browser = await puppeteer.launch({
      browser: isFirefox ? "firefox" : "chrome",
      executablePath,
      args: isFirefox ? [] : [...CHROMIUM_SWITCHES, ...switches],
      extraPrefsFirefox: FIREFOX_PREFERENCES,
      env: { ...process.env, ...sound?.environment },
    });
    try {
      return await use(browser);
    } finally {
      await browser.close();
    }
  } finally {
    await sound?.remove();
  }
}
