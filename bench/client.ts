/** Client process of one subject. Argument: `ClientArguments` as JSON. */
import process from "node:process";
import type {
  ClientArguments,
  ClientOrder,
  FirstByteOrder,
  FirstBytes,
  RunOrder,
  RunResult,
} from "./messages.ts";
import { carryOutOrders } from "./program.ts";
import { quantile } from "./statistics.ts";
import type { Client, PieceRef } from "./subject.ts";
import { subjectNamed } from "./subjects.ts";
import { startUsage } from "./usage.ts";

const { subject: name } = JSON.parse(process.argv[2] ?? "") as ClientArguments;
const subject = subjectNamed(name).load();
// A failure is reported to the order that awaits `subject`.
subject.catch(() => {});
/** Shared by all runs, so that no run includes the dial. */
let client: Promise<Client> | undefined;

carryOutOrders<ClientOrder>(
  (order) => (order.do === "run" ? run(order) : firstBytes(order)),
  async () => (await client)?.close(),
);

async function run({
  peer,
  contentLength,
  pieceLength,
  concurrency,
  requests,
  seconds,
}: RunOrder): Promise<RunResult> {
  client ??= subject.then(({ dial }) => dial(peer, { earlyData: false, forgetful: false }));
  const { fetch } = await client;
  const pieceCount = Math.floor(contentLength / pieceLength);
  const times: number[] = [];
  let asked = 0;
  const usage = startUsage();
  const started = performance.now();
  const until = started + seconds * 1000;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      let before = performance.now();
      while (asked < requests && before < until) {
        await fetchWhole(fetch, { pieceLength, number: asked++ % pieceCount });
        const after = performance.now();
        times.push(after - before);
        before = after;
      }
    }),
  );
  const elapsed = (performance.now() - started) / 1000;
  const sorted = times.sort((a, b) => a - b);
  return {
    bytes: times.length * pieceLength,
    requests: times.length,
    seconds: elapsed,
    p50: quantile(sorted, 0.5),
    p99: quantile(sorted, 0.99),
    ...usage(),
  };
}

async function firstBytes({
  peer,
  pieceLength,
  how,
  samples,
  settle,
}: FirstByteOrder): Promise<FirstBytes> {
  const { dial } = await subject;
  const milliseconds: number[] = [];
  for (let sample = 0; sample < samples; sample++) {
    const piece = { pieceLength, number: 0 };
    let started = performance.now();
    const one = await dial(peer, { earlyData: how === "early", forgetful: how !== "cold" });
    if (how !== "cold") {
      await fetchWhole(one.fetch, piece);
      // Until the connection is closed and its session is stored.
      await new Promise((resolve) => setTimeout(resolve, settle));
      started = performance.now();
    }
    let first = started;
    await fetchWhole(one.fetch, piece, () => {
      first = performance.now();
    });
    milliseconds.push(first - started);
    await one.close();
  }
  return { milliseconds };
}

async function fetchWhole(
  fetch: Client["fetch"],
  piece: PieceRef,
  onFirstByte?: () => void,
): Promise<void> {
  const length = await fetch(piece, onFirstByte);
  if (length !== piece.pieceLength)
    throw new Error(`piece: expected ${piece.pieceLength} bytes, got ${length}`);
}
