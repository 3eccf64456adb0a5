// node:http2 over REST: one session of nghttp2, by ALPN or with prior knowledge.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http2 from "node:http2";

import {
  ANSWER,
  LARGE_BODY,
  LARGE_FLOATS,
  QUESTION,
  SHORT_MS,
  STUCK_BODY,
  repeat,
  runChecks,
  target,
} from "./contract.mjs";

const { NGHTTP2_CANCEL } = http2.constants;

const session = http2.connect(target.rest, target.ca ? { ca: readFileSync(target.ca) } : {});

function post(path, body, { cancelAfterMs } = {}) {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ":method": "POST",
      ":path": `/v1/models/${path}:predict`,
      "content-type": "application/json",
    });
    let status;
    const parts = [];
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("data", (part) => parts.push(part));
    stream.on("error", reject);
    stream.on("close", () =>
      stream.rstCode === NGHTTP2_CANCEL
        ? reject(new Error("cancelled"))
        : resolve({ status, text: Buffer.concat(parts).toString() }),
    );
    if (cancelAfterMs) setTimeout(() => stream.close(NGHTTP2_CANCEL), cancelAfterMs);
    stream.end(body);
  });
}

async function predict() {
  const { status, text } = await post("half_plus_two", QUESTION);
  assert.equal(status, 200);
  assert.deepEqual(JSON.parse(text), ANSWER);
}

async function errors() {
  const { status, text } = await post("nope", QUESTION);
  assert.equal(status, 404);
  assert.equal(JSON.parse(text).error, "Servable not found for request: Latest(nope)");
}

async function cancel() {
  await assert.rejects(post("turnstile", STUCK_BODY, { cancelAfterMs: SHORT_MS }), {
    message: "cancelled",
  });
  await predict();
}

async function large() {
  const { text } = await post("all_dtypes", LARGE_BODY());
  assert.equal(text.match(/0\.5/g).length, LARGE_FLOATS);
}

await runChecks(`Node ${process.versions.node}, nghttp2 ${process.versions.nghttp2}`, {
  predict,
  errors,
  cancel,
  "20 MB": large,
  calls: () => repeat(target.calls, predict),
});
session.close();
