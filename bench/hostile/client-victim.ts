/** A client that is answered wrongly, over one protocol after the other, in a process of its own; and beside it rightly. */
import { Buffer } from "node:buffer";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { faceOf } from "../../entry/face.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { CallOptions } from "../../src/client/downloader.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import type { TaskDownloader } from "../../src/client/task-downloader.ts";
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
import { obey } from "../program.ts";
import { seededRandom } from "../soak/content.ts";
import type { Gauges } from "../soak/gauges.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { inParallel, type Outcomes, pick } from "./attack.ts";
import { HonestClients } from "./honest.ts";
import { Watch } from "./victim.ts";

/** Requests at a time, each by a downloader of its own, since some faults end a connection; of those that take a deadline, more. */
const LANES = 8;
const SILENT_LANES = 48;
/** Milliseconds without a byte after which what is to be silent is given up; of others, nobody waits for silence. */
const SILENCE = 200;
const PATIENCE = 30_000;

/** Requests to a hostile peer over one protocol. */
export interface Asking {
  readonly over: Protocol;
  readonly group: FaultGroup;
  readonly tries: number;
  readonly seed: number;
}

/**
 * `open` and `rest` are answered with {@link Gauges}, `ask` with the {@link Outcomes} of each asking, all of which go on at the same
 * time, `end` with a number of bytes, `stop` with `Fares`, and `close` with an `Ending`.
 */
export type ClientOrder =
  | { readonly do: "open"; readonly hostile: Addresses; readonly honest: Addresses }
  | { readonly do: "ask"; readonly askings: readonly Asking[] }
  | { readonly do: "start" | "stop"; readonly over: readonly Protocol[] }
  | { readonly do: "begin" | "end" | "rest" | "close" };

/** Takes orders. */
export async function playClient({ cert }: TlsIdentity): Promise<void> {
  const watch = new Watch();
  const { counters } = watch;
  const face = faceOf(counters.quic(await quicOfRuntime()));
  const options = {
    tls: { ca: cert },
    telemetry: counters.telemetry,
    stallTimeout: PATIENCE,
    pieceTimeout: 2 * PATIENCE,
    connectTimeout: PATIENCE,
  };
  const downloaderFor = (protocol: Protocol): TaskDownloader => {
    const { tls, ...others } = options;
    return face.createDownloader({ protocol, ...(protocol === "quic" && { tls }), ...others });
  };
  const settings = downloaderSettings(options, { ...portableRuntime, hashers: nativeHashers });
  let downloaders: readonly TaskDownloader[] = [];
  let honest = new HonestClients();
  let hostile: Addresses = {};
  let start: Gauges | undefined;
  const close = async (): Promise<void> => {
    await Promise.all(downloaders.map((downloader) => downloader.close()));
    downloaders = [];
    honest = new HonestClients();
  };
  const ask = async ({ over, group, tries, seed }: Asking): Promise<Outcomes> => {
    const lanes = Array.from({ length: group === "silent" ? SILENT_LANES : LANES }, () =>
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
        throw new RangeError(`there is no lane ${lane}`);
      });
    } finally {
      await Promise.all(lanes.map((downloader) => downloader.close()));
    }
  };
  obey<ClientOrder>(async (order) => {
    switch (order.do) {
      case "open":
        hostile = order.hostile;
        // Once for what is loaded, compiled or opened at first use and then kept.
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
        return Promise.all(order.askings.map(ask));
      case "begin":
        return watch.begin();
      case "end":
        return watch.end();
      case "start":
        return honest.start(order.over);
      case "stop":
        return honest.stop(order.over);
      case "rest":
        return counters.gauges();
      case "close":
        await close();
        return watch.ending(start);
    }
  }, close);
}

/** Asks for a piece by an id that names a fault of the group: each fault in turn, in a form that chance chooses. */
async function askOverVortex(
  downloader: TaskDownloader,
  addr: string,
  group: FaultGroup,
  index: number,
  random: () => number,
): Promise<string> {
  const faults = vortexFaults.filter((fault) => fault.group === group);
  const fault = faults[index % faults.length] ?? pick(faults, random);
  const taskId = vortexFaultId(fault, Math.floor(random() * (fault.variants ?? 1)));
  const { number, content } = hostilePiece;
  const verdict = await verdictOf(async () => {
    const piece = await downloader.downloadPiece(
      { addr, hostId: "h", taskId, number },
      limitsOf(group),
    );
    if (Buffer.compare(await piece.bytes(), content) !== 0)
      throw new Error("other bytes were handed on as complete");
    return "right";
  });
  return judged(verdict, fault.codes, fault.name);
}

/** The same over gRPC, where each call has faults. */
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
  return verdictOf(asked).then((verdict) =>
    judged(verdict, fault.codes(call, variant), `${fault.name}, ${call}, form ${variant}`),
  );
}

function limitsOf(group: FaultGroup): CallOptions {
  return group === "silent" ? { stallTimeout: SILENCE } : {};
}

async function verdictOf(
  run: () => Promise<FaultOutcome>,
): Promise<FaultOutcome | `wrong: ${string}`> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof VortexError) return error.code;
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

function judged(
  verdict: FaultOutcome | `wrong: ${string}`,
  codes: readonly FaultOutcome[],
  what: string,
): string {
  if (verdict.startsWith("wrong") || codes.some((code) => code === verdict)) return verdict;
  return `wrong: ${verdict} for ${what}`;
}
