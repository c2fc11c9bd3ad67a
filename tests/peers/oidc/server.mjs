// An identity server for tests/interop_oidc.rs: `oidc-provider` with its development pages, on a free
// port of loopback. Whoever signs in is asked for any login, which is taken as his number; a login that
// begins with "unverified " is a number that nobody has verified. It says where it listens on its first
// line, and ends when its standard input does.
//
//   node server.mjs [claims-in-id-token]
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const number = (login) => login.replace('unverified ', '');
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'aftertone',
    client_secret: 'a secret: with %, + and &',
    redirect_uris: ['https://voicemail.example.com/auth/callback'],
    grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
    response_types: ['code'],
    subject_type: 'pairwise',
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  subjectTypes: ['public', 'pairwise'],
  pairwiseIdentifier: (_ctx, login, client) =>
    createHash('sha256').update(client.clientId + login).digest('hex'),
  scopes: ['openid', 'offline_access', 'phone', 'call.routing:write'],
  claims: { openid: ['sub'], phone: ['phone_number', 'phone_number_verified'] },
  // By the standard, claims of a scope are told at /userinfo only.
  conformIdTokenClaims: !process.argv.includes('claims-in-id-token'),
  findAccount: (_ctx, login) => ({
    accountId: login,
    claims: () => ({
      sub: login,
      phone_number: number(login),
      phone_number_verified: login === number(login),
    }),
  }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  cookies: { keys: ['of no use to anybody'] },
  ttl: {
    AccessToken: 3600,
    ClientCredentials: 600,
    Grant: 3600,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
});
server.on('request', provider.callback());
console.log(issuer);
process.stdin.resume().on('end', () => process.exit());
