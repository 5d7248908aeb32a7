// Runs named checks and prints one line of JSON for each: {name, ok, detail}.
import assert from "node:assert/strict";

const LIMIT_SECONDS = 40;
const registered = [];

export function check(name, body) {
  registered.push({ name, body });
}

export function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Runs work(0) .. work(count - 1) at once; waits for all and fails with the first failure of any of them. */
export async function together(count, work) {
  const outcomes = await Promise.allSettled(Array.from({ length: count }, (_, number) => work(number)));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
}

/** Fails unless the promise is rejected with this SQLSTATE. Returns the error. */
export async function refused(state, promise) {
  let error;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, `expected SQLSTATE ${state}, but nothing failed`);
  assert.equal(error.code, state, `expected SQLSTATE ${state}, got ${error.code}: ${error.message}`);
  return error;
}

/** Settles like the promise, or fails after so many milliseconds. */
export function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function described(error) {
  const lines = String(error?.stack ?? error).split("\n");
  const places = lines
    .map((line) => /([a-z]+\.mjs:\d+):\d+\)?$/.exec(line)?.[1])
    .filter((place) => place && !place.startsWith("checks.mjs"));
  const places3 = [...new Set(places)].slice(0, 3);
  const state = error?.code ? ` [${error.code}]` : "";
  return `${String(error?.message ?? error).slice(0, 600)}${state}${places3.length ? ` (${places3.join(", ")})` : ""}`;
}

export async function main() {
  const wanted = new Set(process.argv.slice(2));
  // A driver that throws outside any promise fails the check that is running, not the program.
  let current = null;
  const stray = (error) => current?.(error);
  process.on("uncaughtException", stray);
  process.on("unhandledRejection", stray);
  for (const { name, body } of registered) {
    if (wanted.size && !wanted.has(name)) continue;
    const started = process.hrtime.bigint();
    let detail = "";
    try {
      const thrown = new Promise((_, reject) => {
        current = reject;
      });
      await within(LIMIT_SECONDS * 1000, Promise.race([body(), thrown]), "the check");
    } catch (error) {
      detail = described(error) || "failed without a message";
    }
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    process.stdout.write(`${JSON.stringify({ name, ok: detail === "", detail, seconds })}\n`);
  }
  process.exit(0);
}
