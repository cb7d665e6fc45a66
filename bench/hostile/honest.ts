/** An honest client beside an attack: one piece after the other, each compared byte for byte, with a pause between. */
import { faceOf } from "../../entry/face.ts";
import type { TaskDownloader } from "../../src/client/task-downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { type Protocol, protocols } from "../../src/transport/protocol.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { obey } from "../program.ts";
import { PIECE_COUNT, pieceBytes, TASK_ID } from "../soak/content.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { pause } from "./attack.ts";

/** Milliseconds between two pieces. */
const BREATH = 5;
/** Milliseconds: beyond whatever an attack may cost, so that a piece fails only when it would have hung. */
const LIMITS = { connectTimeout: 10_000, stallTimeout: 20_000, pieceTimeout: 40_000 };

/** How an honest client fared for a while. */
export interface Fared {
  /** Milliseconds of each piece that came. */
  readonly times: readonly number[];
  /** How often a piece did not come, by the code of its error; `wrong bytes` and what is no `VortexError` among them. */
  readonly failures: Readonly<Record<string, number>>;
}

/** How the clients of some protocols fared. */
export type Fares = Readonly<Partial<Record<Protocol, Fared>>>;

/** A client for each protocol, as far as there are any. */
export class HonestClients {
  readonly #clients = new Map<Protocol, HonestClient>();

  constructor(
    clients: readonly (readonly [over: Protocol, downloader: TaskDownloader, addr: string])[] = [],
  ) {
    for (const [over, downloader, addr] of clients)
      this.#clients.set(over, new HonestClient(downloader, addr));
  }

  start(over: readonly Protocol[]): void {
    for (const protocol of over) this.#clients.get(protocol)?.start();
  }

  /** Waits for the pieces under way. */
  async stop(over: readonly Protocol[]): Promise<Fares> {
    const entries = over.map(async (protocol) => [
      protocol,
      await this.#clients.get(protocol)?.stop(),
    ]);
    return Object.fromEntries(await Promise.all(entries));
  }
}

/** `start` and `stop` as {@link HonestClients} does, `stop` answered with {@link Fares}. */
export interface HonestOrder {
  readonly do: "start" | "stop";
  readonly over: readonly Protocol[];
}

/** Takes orders: honest clients of one server in a process of their own. */
export async function playHonest({ cert }: TlsIdentity, addresses: Addresses): Promise<void> {
  const face = faceOf(await quicOfRuntime());
  const each = protocols.map((protocol) => {
    const tls = { ca: cert };
    const downloader = face.createDownloader({
      protocol,
      ...(protocol === "quic" && { tls }),
      ...LIMITS,
    });
    return [protocol, downloader, addresses[protocol] ?? ""] as const;
  });
  const clients = new HonestClients(each);
  obey<HonestOrder>(
    async (order) => (order.do === "start" ? clients.start(order.over) : clients.stop(order.over)),
    async () => {
      await Promise.all(each.map(([, downloader]) => downloader.close()));
    },
  );
}

/** Fetches until it is told to stop. */
class HonestClient {
  readonly #downloader: TaskDownloader;
  readonly #addr: string;
  #fetching: Promise<Fared> | undefined;
  #stopping = false;

  constructor(downloader: TaskDownloader, addr: string) {
    this.#downloader = downloader;
    this.#addr = addr;
  }

  start(): void {
    this.#stopping = false;
    this.#fetching = this.#fetch();
  }

  /** Waits for the piece under way. */
  async stop(): Promise<Fared> {
    this.#stopping = true;
    return (await this.#fetching) ?? { times: [], failures: {} };
  }

  async #fetch(): Promise<Fared> {
    const times: number[] = [];
    const failures: Record<string, number> = {};
    for (let number = 0; !this.#stopping; number = (number + 1) % PIECE_COUNT) {
      const started = performance.now();
      const failure = await this.#piece(number);
      if (failure === undefined) times.push(performance.now() - started);
      else failures[failure] = (failures[failure] ?? 0) + 1;
      await pause(BREATH);
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
