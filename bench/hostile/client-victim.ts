/**
 * Client under attack, in a separate process: a hostile peer answers its requests over every
 * protocol. Beside it, an honest client fetches from an honest peer.
 */
import { Buffer } from "node:buffer";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { CallOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import type { Downloader } from "../../src/client/task-downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { type Protocol, protocols } from "../../src/transport/protocol.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { callGrpc, grpcCalls, grpcFaultId, grpcFaults } from "../../test/support/hostile-grpc.ts";
import {
  type FaultGroup,
  type FaultOutcome,
  hostilePiece,
  vortexFaultId,
  vortexFaults,
} from "../../test/support/hostile-vortex.ts";
import { carryOutOrders } from "../program.ts";
import { seededRandom } from "../soak/content.ts";
import type { Gauges } from "../soak/gauges.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { inParallel, type Outcomes, pick } from "./attack.ts";
import { HonestClients } from "./honest.ts";
import { ProcessMonitor } from "./victim.ts";

/**
 * Concurrent requests, each by a separate downloader, since some faults end a connection. Silent
 * faults take a whole timeout, so more of them run at once.
 */
const CONCURRENCY = 8;
const SILENT_CONCURRENCY = 48;
/** Stall timeout for faults that stay silent, in ms. The others never wait for silence. */
const SILENT_STALL_TIMEOUT_MS = 200;
const STALL_TIMEOUT_MS = 30_000;

/** Batch of requests to a hostile peer over one protocol. */
export interface RequestBatch {
  readonly over: Protocol;
  readonly group: FaultGroup;
  readonly tries: number;
  readonly seed: number;
}

/**
 * Orders to the client, and their answers:
 *
 * - `open` and `rest`: {@link Gauges}
 * - `ask`: the {@link Outcomes} of each batch; the batches run concurrently
 * - `end`: a number of bytes
 * - `stop`: `ClientStatsByProtocol`
 * - `close`: an `Ending`
 */
export type ClientOrder =
  | { readonly do: "open"; readonly hostile: Addresses; readonly honest: Addresses }
  | { readonly do: "ask"; readonly batches: readonly RequestBatch[] }
  | { readonly do: "start" | "stop"; readonly over: readonly Protocol[] }
  | { readonly do: "begin" | "end" | "rest" | "close" };

/** Runs the client process: carries out orders from standard input. */
export async function runClient({ cert }: TlsIdentity): Promise<void> {
  const monitor = new ProcessMonitor();
  const { counters } = monitor;
  const entry = runtimeApi(counters.quic(await quicOfRuntime()));
  const options = {
    tls: { ca: cert },
    telemetry: counters.telemetry,
    stallTimeout: STALL_TIMEOUT_MS,
    pieceTimeout: 2 * STALL_TIMEOUT_MS,
    connectTimeout: STALL_TIMEOUT_MS,
  };
  const downloaderFor = (protocol: Protocol): Downloader => {
    const { tls, ...others } = options;
    return entry.createDownloader({ protocol, ...(protocol === "quic" && { tls }), ...others });
  };
  const settings = downloaderSettings(options, { ...portableRuntime, hashers: nativeHashers });
  let downloaders: readonly Downloader[] = [];
  let honest = new HonestClients();
  let hostile: Addresses = {};
  let start: Gauges | undefined;
  const close = async (): Promise<void> => {
    await Promise.all(downloaders.map((downloader) => downloader.close()));
    downloaders = [];
    honest = new HonestClients();
  };
  const ask = async ({ over, group, tries, seed }: RequestBatch): Promise<Outcomes> => {
    const lanes = Array.from(
      { length: group === "silent" ? SILENT_CONCURRENCY : CONCURRENCY },
      () =>
        over === "grpc"
          ? new GrpcDownloader(async () => grpcBinding(), settings)
          : downloaderFor(over),
    );
    const random = seededRandom(seed);
    const addr = hostile[over] ?? "";
    try {
      return await inParallel(tries, lanes.length, (index, lane) => {
        const downloader = lanes[lane];
        if (downloader instanceof GrpcDownloader)
          return askOverGrpc(downloader, addr, group, index, random);
        if (downloader !== undefined) return askOverVortex(downloader, addr, group, index, random);
        throw new RangeError(`no lane ${lane}`);
      });
    } finally {
      await Promise.all(lanes.map((downloader) => downloader.close()));
    }
  };
  carryOutOrders<ClientOrder>(async (order) => {
    switch (order.do) {
      case "open":
        hostile = order.hostile;
        // A first batch, since some resources are loaded, compiled or opened at first use and then
        // kept.
        for (const over of protocols) await ask({ over, group: "wrong", tries: 50, seed: 1 });
        start = await counters.settled();
        honest = new HonestClients(
          protocols.map((over) => {
            const downloader = downloaderFor(over);
            downloaders = [...downloaders, downloader];
            return [over, downloader, order.honest[over] ?? ""];
          }),
        );
        return start;
      case "ask":
        return Promise.all(order.batches.map(ask));
      case "begin":
        return monitor.begin();
      case "end":
        return monitor.end();
      case "start":
        return honest.start(order.over);
      case "stop":
        return honest.stop(order.over);
      case "rest":
        return counters.gauges();
      case "close":
        await close();
        return monitor.ending(start);
    }
  }, close);
}

/**
 * Requests a piece by an id that selects a fault of the group. Faults take turns; the variant is
 * random.
 */
async function askOverVortex(
  downloader: Downloader,
  addr: string,
  group: FaultGroup,
  index: number,
  random: () => number,
): Promise<string> {
  const faults = vortexFaults.filter((fault) => fault.group === group);
  const fault = faults[index % faults.length] ?? pick(faults, random);
  const taskId = vortexFaultId(fault, Math.floor(random() * (fault.variants ?? 1)));
  const { number, content } = hostilePiece;
  const outcome = await outcomeOf(async () => {
    const piece = await downloader.downloadPiece({
      addr,
      hostId: "h",
      taskId,
      number,
      ...limitsOf(group),
    });
    if (Buffer.compare(await piece.bytes(), content) !== 0)
      throw new Error("other bytes were handed on as complete");
    return "right";
  });
  return checkedOutcome(outcome, fault.codes, fault.name);
}

/** Requests a piece, or calls another method, by an id that selects a fault over gRPC. */
function askOverGrpc(
  downloader: GrpcDownloader,
  addr: string,
  group: FaultGroup,
  index: number,
  random: () => number,
): Promise<string> {
  const faults = grpcFaults.filter((fault) => fault.group === group);
  const fault = faults[index % faults.length] ?? pick(faults, random);
  const call = pick(fault.calls ?? grpcCalls, random);
  const variant = Math.floor(random() * (fault.variants?.(call) ?? 1));
  const options = limitsOf(fault.silent ? "silent" : group);
  const asked = (): Promise<FaultOutcome> =>
    callGrpc(downloader, addr, call, grpcFaultId(call, fault, variant), options);
  return outcomeOf(asked).then((outcome) =>
    checkedOutcome(outcome, fault.codes(call, variant), `${fault.name}, ${call}, form ${variant}`),
  );
}

function limitsOf(group: FaultGroup): CallOptions {
  return group === "silent" ? { stallTimeout: SILENT_STALL_TIMEOUT_MS } : {};
}

async function outcomeOf(
  run: () => Promise<FaultOutcome>,
): Promise<FaultOutcome | `wrong: ${string}`> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof VortexError) return error.code;
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

function checkedOutcome(
  outcome: FaultOutcome | `wrong: ${string}`,
  codes: readonly FaultOutcome[],
  what: string,
): string {
  if (outcome.startsWith("wrong") || codes.some((code) => code === outcome)) return outcome;
  return `wrong: ${outcome} for ${what}`;
}
