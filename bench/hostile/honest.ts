/**
 * Honest client beside an attack: fetches piece after piece, with a pause between, and compares
 * every byte.
 */
import { runtimeApi } from "../../entry/runtime-api.ts";
import type { Downloader } from "../../src/client/task-downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { type Protocol, protocols } from "../../src/transport/protocol.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { carryOutOrders } from "../program.ts";
import { PIECE_COUNT, pieceBytes, TASK_ID } from "../soak/content.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { pause } from "./attack.ts";

/** Pause between two pieces, in ms. */
const PIECE_INTERVAL_MS = 5;
/** Timeouts in ms, longer than any attack may delay a piece: only a piece that hangs fails. */
const TIMEOUTS_MS = { connectTimeout: 10_000, stallTimeout: 20_000, pieceTimeout: 40_000 };

/** Results of an honest client over a period. */
export interface ClientStats {
  /** Time of each piece, in ms. */
  readonly times: readonly number[];
  /** Number of failed pieces by error code, `wrong bytes`, or the text of another error. */
  readonly failures: Readonly<Record<string, number>>;
}

/** Results of the honest clients by protocol. */
export type ClientStatsByProtocol = Readonly<Partial<Record<Protocol, ClientStats>>>;

/** Holds one honest client for each given protocol. */
export class HonestClients {
  readonly #clients = new Map<Protocol, HonestClient>();

  constructor(
    clients: readonly (readonly [over: Protocol, downloader: Downloader, addr: string])[] = [],
  ) {
    for (const [over, downloader, addr] of clients)
      this.#clients.set(over, new HonestClient(downloader, addr));
  }

  start(over: readonly Protocol[]): void {
    for (const protocol of over) this.#clients.get(protocol)?.start();
  }

  /** Stops the clients of these protocols, after their current pieces. */
  async stop(over: readonly Protocol[]): Promise<ClientStatsByProtocol> {
    const entries = over.map(async (protocol) => [
      protocol,
      await this.#clients.get(protocol)?.stop(),
    ]);
    return Object.fromEntries(await Promise.all(entries));
  }
}

/** Order for {@link HonestClients}. `stop` is answered with {@link ClientStatsByProtocol}. */
export interface HonestOrder {
  readonly do: "start" | "stop";
  readonly over: readonly Protocol[];
}

/** Runs the process of the honest clients of one server: carries out orders from standard input. */
export async function runHonestClients({ cert }: TlsIdentity, addresses: Addresses): Promise<void> {
  const entry = runtimeApi(await quicOfRuntime());
  const each = protocols.map((protocol) => {
    const tls = { ca: cert };
    const downloader = entry.createDownloader({
      protocol,
      ...(protocol === "quic" && { tls }),
      ...TIMEOUTS_MS,
    });
    return [protocol, downloader, addresses[protocol] ?? ""] as const;
  });
  const clients = new HonestClients(each);
  carryOutOrders<HonestOrder>(
    async (order) => (order.do === "start" ? clients.start(order.over) : clients.stop(order.over)),
    async () => {
      await Promise.all(each.map(([, downloader]) => downloader.close()));
    },
  );
}

/** Fetches pieces in a loop from `start` to `stop`. */
class HonestClient {
  readonly #downloader: Downloader;
  readonly #addr: string;
  #fetching: Promise<ClientStats> | undefined;
  #stopping = false;

  constructor(downloader: Downloader, addr: string) {
    this.#downloader = downloader;
    this.#addr = addr;
  }

  start(): void {
    this.#stopping = false;
    this.#fetching = this.#fetch();
  }

  /** Resolves after the current piece. */
  async stop(): Promise<ClientStats> {
    this.#stopping = true;
    return (await this.#fetching) ?? { times: [], failures: {} };
  }

  async #fetch(): Promise<ClientStats> {
    const times: number[] = [];
    const failures: Record<string, number> = {};
    for (let number = 0; !this.#stopping; number = (number + 1) % PIECE_COUNT) {
      const started = performance.now();
      const failure = await this.#piece(number);
      if (failure === undefined) times.push(performance.now() - started);
      else failures[failure] = (failures[failure] ?? 0) + 1;
      await pause(PIECE_INTERVAL_MS);
    }
    return { times, failures };
  }

  async #piece(number: number): Promise<string | undefined> {
    try {
      const request = { addr: this.#addr, hostId: "honest", taskId: TASK_ID, number };
      const bytes = await (await this.#downloader.downloadPiece(request)).bytes();
      const right = pieceBytes(number);
      return bytes.length === right.length && bytes.every((byte, at) => byte === right[at])
        ? undefined
        : "wrong bytes";
    } catch (error) {
      return error instanceof VortexError ? error.code : String(error);
    }
  }
}
