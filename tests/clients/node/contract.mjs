// What every client program is told, and what it has to say; contract.py has it in words.

export const target = {
  grpc: process.env.SALVER_GRPC,
  rest: process.env.SALVER_REST,
  ca: process.env.SALVER_CA,
  gate: process.env.SALVER_GATE,
  protos: process.env.SALVER_PROTOS,
  calls: Number(process.env.SALVER_CALLS),
};

export const TIMEOUT_MS = 60_000;
export const SHORT_MS = 200;
export const LARGE_FLOATS = 5_000_000;
export const IN_FLIGHT = 100;

export const QUESTION = JSON.stringify({ instances: [1, 2, 5] });
export const ANSWER = { predictions: [2.5, 3.0, 4.5] };

export const LARGE_BODY = () =>
  `{"signature_name":"float","instances":[${"0.5,".repeat(LARGE_FLOATS - 1)}0.5]}`;

export const STUCK_BODY = JSON.stringify({ inputs: { arrived: "/dev/null", leave: target.gate } });

export async function runChecks(version, checks) {
  console.log(`version: ${version}`);
  for (const [name, check] of Object.entries(checks)) {
    await check();
    console.log(`did: ${name}`);
  }
}

// Runs `call` so many times, a hundred at once.
export async function repeat(times, call) {
  let left = times;
  const worker = async () => {
    while (left-- > 0) await call();
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}
