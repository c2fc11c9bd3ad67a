// A client that others wrote, as a judge of the sandbox's identity server:
//   node client.mjs ISSUER CLIENT_ID CLIENT_SECRET REDIRECT_URI NUMBER
// Every check that the library has is on. Each step is a line; the first that fails ends it.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";

// Older releases of node keep it elsewhere.
globalThis.crypto ??= webcrypto;
const client = await import("openid-client");

const [issuer, id, secret, redirectUri, number] = process.argv.slice(2);
const scope = "openid phone offline_access call.routing:write";

const discover = () =>
  client.discovery(new URL(issuer), id, undefined, client.ClientSecretBasic(secret), {
    execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks],
  });

// A browser: one cookie, and forms that are found in the page.
let cookie = "";
const visit = async (address, form) => {
  const answer = await fetch(new URL(address, issuer), {
    method: form ? "POST" : "GET",
    body: form && new URLSearchParams(form),
    headers: cookie ? { cookie } : {},
    redirect: "manual",
  });
  cookie = answer.headers.get("set-cookie")?.split(";")[0] ?? cookie;
  return { to: answer.headers.get("location"), html: await answer.text() };
};
const submit = async (page, action, fields) => {
  const form = page.html.split(`action="${action}"`)[1].split("</form>")[0];
  const hidden = [...form.matchAll(/type="hidden" name="([^"]*)" value="([^"]*)"/g)];
  return visit(action, { ...Object.fromEntries(hidden.map((it) => it.slice(1))), ...fields });
};
const pin = async () => {
  const { html } = await visit(`/sandbox/sms/${number}`);
  return JSON.parse(html).messages[0].text.slice(0, 6);
};

const step = async (name, run) => {
  const result = await run();
  console.log(`ok: ${name}`);
  return result;
};
const refused = (run, error) =>
  assert.rejects(run, (it) => it.error === error || assert.fail(`${it}: not ${error}`));

// Sends the person through the sign-in and redeems what comes back.
const signIn = async (config, decision) => {
  const verifier = client.randomPKCECodeVerifier();
  const checks = {
    pkceCodeVerifier: verifier,
    expectedState: client.randomState(),
    expectedNonce: client.randomNonce(),
    idTokenExpected: true,
    maxAge: 300,
  };
  const request = client.buildAuthorizationUrl(config, {
    redirect_uri: redirectUri,
    scope,
    state: checks.expectedState,
    nonce: checks.expectedNonce,
    max_age: "300",
    prompt: "consent",
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  });
  let page = await visit(request);
  if (page.to.startsWith("/oauth2/number")) {
    page = await submit(await visit(page.to), "/oauth2/number", { number });
    page = await submit(await visit(page.to), "/oauth2/pin", { pin: await pin() });
  }
  page = await submit(await visit(page.to), "/oauth2/consent", { decision });
  const back = new URL(page.to);
  return { back, checks, redeem: () => client.authorizationCodeGrant(config, back, checks) };
};

const config = await step("discovery", discover);

await step("a denied consent", async () => {
  const { redeem } = await signIn(config, "deny");
  await refused(redeem, "access_denied");
});

const { tokens, claims } = await step("code, PKCE, nonce, state, issuer, signature", async () => {
  const { redeem } = await signIn(config, "allow");
  const tokens = await redeem();
  assert.equal(tokens.token_type, "bearer");
  const claims = tokens.claims();
  assert.equal(claims.phone_number, number);
  assert.equal(claims.phone_number_verified, true);
  await refused(redeem, "invalid_grant");
  return { tokens, claims };
});

await step("a replayed code has ended its tokens", () =>
  refused(() => client.refreshTokenGrant(config, tokens.refresh_token), "invalid_grant"),
);

await step("a wrong verifier", async () => {
  const { back, checks } = await signIn(config, "allow");
  const pkceCodeVerifier = client.randomPKCECodeVerifier();
  const redeem = () => client.authorizationCodeGrant(config, back, { ...checks, pkceCodeVerifier });
  await refused(redeem, "invalid_grant");
});

const fresh = await step("a second sign-in is the same person", async () => {
  const fresh = await (await signIn(config, "allow")).redeem();
  assert.equal(fresh.claims().sub, claims.sub);
  return fresh;
});

await step("userinfo", async () => {
  const person = await client.fetchUserInfo(config, fresh.access_token, claims.sub);
  assert.equal(person.phone_number, number);
});

const second = await step("refresh, with a new refresh token", async () => {
  const second = await client.refreshTokenGrant(config, fresh.refresh_token);
  assert.notEqual(second.refresh_token, fresh.refresh_token);
  assert.equal(second.claims().sub, claims.sub);
  return second;
});

const third = await step("after a rotation of the key", async () => {
  const answer = await fetch(new URL("/sandbox/rotate-keys", issuer), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "{}",
  });
  assert.equal(answer.status, 200);
  return client.refreshTokenGrant(await discover(), second.refresh_token);
});

await step("revocation", async () => {
  await client.tokenRevocation(config, third.refresh_token);
  await refused(() => client.refreshTokenGrant(config, third.refresh_token), "invalid_grant");
  const asked = client.fetchUserInfo(config, third.access_token, claims.sub);
  await assert.rejects(asked, (it) => it.status === 401 || it.cause?.[0]?.scheme === "bearer");
});

await step("client credentials", async () => {
  const own = await client.clientCredentialsGrant(config, { scope: "call.routing:write" });
  assert.equal(own.scope, "call.routing:write");
  await refused(() => client.clientCredentialsGrant(config, { scope: "openid" }), "invalid_scope");
});

await step("a wrong secret", async () => {
  const wrong = await client.discovery(new URL(issuer), id, undefined, client.ClientSecretBasic("x"), {
    execute: [client.allowInsecureRequests],
  });
  const asked = client.clientCredentialsGrant(wrong, {});
  await assert.rejects(asked, (it) => it.status === 401);
});

await step("sign-out", async () => {
  const url = client.buildEndSessionUrl(config, { id_token_hint: third.id_token });
  const page = await visit(url);
  assert.match(page.html, /Signed out/);
});
