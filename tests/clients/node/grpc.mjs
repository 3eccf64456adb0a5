// @grpc/grpc-js on Node's HTTP/2, with the .proto files read at run time.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

import { LARGE_FLOATS, SHORT_MS, TIMEOUT_MS, repeat, runChecks, target } from "./contract.mjs";

const NAMELESS = "größe 100%";
const GZIP = { "grpc.default_compression_algorithm": 2 };

const definition = loader.loadSync("tensorflow_serving/apis/prediction_service.proto", {
  includeDirs: [target.protos],
  keepCase: true,
  enums: String,
  longs: Number,
});
const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;

function connect(options = {}) {
  const credentials = target.ca
    ? grpc.credentials.createSsl(readFileSync(target.ca))
    : grpc.credentials.createInsecure();
  const unlimited = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
  return new PredictionService(target.grpc, credentials, { ...unlimited, ...options });
}

const vector = (size) => ({ dim: [{ size }] });

const halfPlusTwo = (name = "half_plus_two") => ({
  model_spec: { name },
  inputs: { x: { dtype: "DT_FLOAT", tensor_shape: vector(3), float_val: [1, 2, 5] } },
});

const identity = (values) => ({
  model_spec: { name: "all_dtypes", signature_name: "float" },
  inputs: {
    x: {
      dtype: "DT_FLOAT",
      tensor_shape: vector(values.length),
      tensor_content: Buffer.from(values.buffer),
    },
  },
});

const scalar = (text) => ({
  dtype: "DT_STRING",
  tensor_shape: {},
  string_val: [Buffer.from(text)],
});

const waiting = () => ({
  model_spec: { name: "turnstile" },
  inputs: { arrived: scalar("/dev/null"), leave: scalar(target.gate) },
});

function predictWith(client, request, { metadata, timeoutMs = TIMEOUT_MS, onCall } = {}) {
  return new Promise((resolve, reject) => {
    const call = client.Predict(
      request,
      metadata ?? new grpc.Metadata(),
      { deadline: Date.now() + timeoutMs },
      (error, answer) => (error ? reject(error) : resolve(answer)),
    );
    onCall?.(call);
  });
}

const values = (answer) => answer.outputs.y.float_val;

const refused = (request, code, details, options) =>
  assert.rejects(predictWith(client, request, options), (error) => {
    assert.equal(error.code, code);
    if (details) assert.equal(error.details, details);
    return true;
  });

const client = connect();

async function predict() {
  assert.deepEqual(values(await predictWith(client, halfPlusTwo())), [2.5, 3, 4.5]);
}

async function errors() {
  const notFound = `Servable not found for request: Latest(${NAMELESS})`;
  await refused(halfPlusTwo(NAMELESS), grpc.status.NOT_FOUND, notFound);
  await refused({}, grpc.status.INVALID_ARGUMENT, "Missing ModelSpec");
}

async function deadline() {
  await refused(waiting(), grpc.status.DEADLINE_EXCEEDED, "", { timeoutMs: SHORT_MS });
  await predict();
}

async function cancel() {
  const onCall = (call) => setTimeout(() => call.cancel(), SHORT_MS);
  await refused(waiting(), grpc.status.CANCELLED, "", { onCall });
  await predict();
}

async function metadata() {
  const sent = new grpc.Metadata();
  sent.add("x-request-id", "e9aedbe");
  sent.add("x-request-id", "again");
  sent.add("x-long", "ab".repeat(3000));
  sent.add("x-trace-bin", Buffer.from(Array.from({ length: 256 }, (_, octet) => octet)));
  let headers;
  const onCall = (call) => call.on("metadata", (received) => (headers = received));
  assert.deepEqual(
    values(await predictWith(client, halfPlusTwo(), { metadata: sent, onCall })),
    [2.5, 3, 4.5],
  );
  assert.deepEqual(headers.get("content-type"), ["application/grpc"]);
}

async function large() {
  const sent = Float32Array.from({ length: LARGE_FLOATS }, (_, i) => i);
  const received = Float32Array.from(values(await predictWith(client, identity(sent))));
  assert.equal(Buffer.compare(Buffer.from(received.buffer), Buffer.from(sent.buffer)), 0);
}

async function compressed() {
  const packing = connect(GZIP);
  const sent = Float32Array.from({ length: 1_000_000 }, (_, i) => i);
  const received = Float32Array.from(values(await predictWith(packing, identity(sent))));
  packing.close();
  assert.equal(Buffer.compare(Buffer.from(received.buffer), Buffer.from(sent.buffer)), 0);
}

const version = createRequire(import.meta.url)("@grpc/grpc-js/package.json").version;

await runChecks(`@grpc/grpc-js ${version}, Node ${process.versions.node}`, {
  predict,
  errors,
  deadline,
  cancel,
  metadata,
  "20 MB": large,
  gzip: compressed,
  calls: () => repeat(target.calls, predict),
});
client.close();
