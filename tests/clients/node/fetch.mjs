// Node's fetch over REST: undici's HTTP/1.1.  NODE_EXTRA_CA_CERTS names whom it trusts.

import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";

import {
  ANSWER,
  LARGE_BODY,
  LARGE_FLOATS,
  QUESTION,
  SHORT_MS,
  STUCK_BODY,
  TIMEOUT_MS,
  repeat,
  runChecks,
  target,
} from "./contract.mjs";

const post = (path, body, { timeoutMs = TIMEOUT_MS, ...options } = {}) =>
  fetch(`${target.rest}/v1/models/${path}:predict`, {
    method: "POST",
    body,
    signal: AbortSignal.timeout(timeoutMs),
    ...options,
  });

async function predict() {
  const answer = await post("half_plus_two", QUESTION);
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), ANSWER);
}

async function errors() {
  const answer = await post("nope", QUESTION);
  assert.equal(answer.status, 404);
  assert.deepEqual(await answer.json(), {
    error: "Servable not found for request: Latest(nope)",
  });
}

async function giveUp() {
  await assert.rejects(post("turnstile", STUCK_BODY, { timeoutMs: SHORT_MS }), {
    name: "TimeoutError",
  });
  await predict();
}

async function large() {
  const answer = await post("all_dtypes", LARGE_BODY());
  const text = await answer.text();
  assert.equal(text.match(/0\.5/g).length, LARGE_FLOATS);
}

async function compressed() {
  const headers = { "Content-Encoding": "gzip" };
  const answer = await post("half_plus_two", gzipSync(QUESTION), { headers });
  assert.deepEqual(await answer.json(), ANSWER);
}

async function chunked() {
  const body = new Blob([QUESTION]).stream();
  const answer = await post("half_plus_two", body, { duplex: "half" });
  assert.deepEqual(await answer.json(), ANSWER);
}

await runChecks(`Node ${process.versions.node}, undici ${process.versions.undici}`, {
  predict,
  errors,
  "give up": giveUp,
  "20 MB": large,
  gzip: compressed,
  chunked,
  calls: () => repeat(target.calls, predict),
});
