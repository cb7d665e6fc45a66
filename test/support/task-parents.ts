import { digestOf } from "../../src/digest/digest.ts";
import type { DigestAlgorithm } from "../../src/digest/hasher.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import { abortedError, VortexError } from "../../src/errors.ts";
import { type Piece, pieceExtent, planTask, type TaskPlan } from "../../src/piece.ts";
import type { Runtime } from "../../src/runtime.ts";
import type { TaskDirectory } from "../../src/task/discovery.ts";
import { TaskFetcher } from "../../src/task/fetcher.ts";
import type {
  SourceOptions,
  SourceRequest,
  TaskSettings,
  TaskSource,
} from "../../src/task/source.ts";
import type { TaskStreamOptions } from "../../src/task/task.ts";
import { unshared } from "../../src/unshared.ts";
import { fakeRuntime } from "./fake-clock.ts";

export const taskId: string = "a1".repeat(32);

/**
 * Function that returns the response of a fake parent to a piece request: chunks of content, or an
 * error.
 */
export type Behaviour = (
  request: ParentRequest,
) => AsyncIterable<Uint8Array> | Iterable<Uint8Array> | ClaimedContent | VortexError;

/** Wrong content of a piece, which the parent announces with the digest of this wrong content. */
export class ClaimedContent implements Iterable<Uint8Array> {
  readonly bytes: Uint8Array;
  /**
   * Digest that the parent announces. Default: the digest of `bytes`, by the algorithm of the
   * parents.
   */
  readonly digest: string | undefined;

  constructor(bytes: Uint8Array, digest?: string) {
    this.bytes = bytes;
    this.digest = digest;
  }

  [Symbol.iterator](): Iterator<Uint8Array> {
    return chunksOf(this.bytes, 1024);
  }
}

/**
 * Creates a behaviour that serves `other` instead of the task's content, with matching digests. It
 * does so for all requests for which `differs` returns true. Default: all.
 */
export function holding(
  other: Uint8Array,
  pieceLength: number,
  differs: (request: ParentRequest) => boolean = () => true,
): Behaviour {
  return (request) => {
    if (!differs(request)) return honest()(request);
    const { number, bytes } = request;
    return new ClaimedContent(
      other.subarray(number * pieceLength, number * pieceLength + bytes.length),
    );
  };
}

/**
 * Creates a behaviour that announces pieces without digests. It serves the correct content, or
 * `other` instead.
 */
export function withoutDigests(other?: Uint8Array, pieceLength = 0): Behaviour {
  return ({ number, bytes }) => {
    const start = number * pieceLength;
    return new ClaimedContent(other?.subarray(start, start + bytes.length) ?? bytes, "");
  };
}

/** Piece request passed to a {@link Behaviour}. */
export interface ParentRequest {
  readonly number: number;
  /** Correct content of the piece. */
  readonly bytes: Uint8Array;
  readonly signal: AbortSignal;
  /** Number of earlier requests to the same parent. */
  readonly previousRequests: number;
}

/** Creates a behaviour that serves the correct content, in chunks of `chunk` bytes. */
export function honest(chunk = 1024): Behaviour {
  return ({ bytes }) => chunksOf(bytes, chunk);
}

/**
 * Behaviour that serves content with one wrong byte, and announces the digest of the correct
 * content.
 */
export const corrupt: Behaviour = ({ bytes }) => {
  const wrong = bytes.slice();
  wrong[wrong.length >> 1] = (wrong[wrong.length >> 1] ?? 0) ^ 1;
  return chunksOf(wrong, 1024);
};

/** Behaviour that serves half of the content, then stalls until the request is aborted. */
export const stalling: Behaviour = async function* ({ bytes, signal }) {
  yield bytes.subarray(0, bytes.length >> 1);
  await until(signal);
};

/** Behaviour that sends no bytes until the request is aborted. */
export const silent: Behaviour = ({ signal }) => ({
  [Symbol.asyncIterator]: () => ({ next: () => until(signal) }),
});

export function failing(code: ConstructorParameters<typeof VortexError>[0]): Behaviour {
  return () => new VortexError(code, `this parent answers ${code}`);
}

export function until(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const abort = (): void => reject(abortedError(signal, "the request"));
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
  });
}

export function* chunksOf(bytes: Uint8Array, chunk: number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
}

/**
 * Fake parents of one task, in memory. Each parent has a {@link Behaviour}. Requests are recorded.
 */
export class FakeParents implements TaskSource {
  readonly content: Uint8Array;
  readonly plan: TaskPlan;
  readonly usesGrpc: boolean;
  readonly directory: TaskDirectory | undefined;
  /** Recorded piece requests, except those whose content was cancelled before a byte was read. */
  readonly asked: { readonly addr: string; readonly number: number }[] = [];
  /**
   * Recorded piece requests whose content was cancelled before a byte was read. The caller only
   * needed the announced digest.
   */
  readonly digestProbes: { readonly addr: string; readonly number: number }[] = [];
  /** Buffers of the caller into which content was copied. */
  readonly memory: Set<ArrayBufferLike> = new Set();
  /** Number of requests in progress, by address of the parent. */
  readonly inFlight: Map<string, number> = new Map();
  /** Largest number of requests that were in progress at the same time, over all parents. */
  maxInFlight: number = 0;
  readonly #behaviours = new Map<string, Behaviour>();
  readonly #algorithm: DigestAlgorithm;
  readonly #readsInto: boolean;
  readonly #pieces: readonly { readonly offset: number; readonly length: number }[] | undefined;

  constructor(
    content: Uint8Array,
    pieceLength: number,
    behaviours: Readonly<Record<string, Behaviour>>,
    options: {
      readonly directory?: TaskDirectory;
      readonly algorithm?: DigestAlgorithm;
      /** Copies content into the buffers of the caller, if true. Default: false. */
      readonly readsInto?: boolean;
      readonly usesGrpc?: boolean;
      /**
       * Offset and length of each piece in bytes. Default: all pieces except the last have the same
       * length.
       */
      readonly pieces?: readonly { readonly offset: number; readonly length: number }[];
    } = {},
  ) {
    this.usesGrpc = options.usesGrpc ?? false;
    this.content = content;
    this.plan = planTask(content.length, pieceLength);
    this.#pieces = options.pieces;
    this.directory = options.directory;
    this.#readsInto = options.readsInto ?? false;
    this.#algorithm = options.algorithm ?? "crc32";
    for (const [name, behaviour] of Object.entries(behaviours))
      this.#behaviours.set(name, behaviour);
  }

  addressOf({ tcpAddr }: { readonly tcpAddr?: string }): string | undefined {
    return tcpAddr;
  }

  behave(addr: string, behaviour: Behaviour): void {
    this.#behaviours.set(addr, behaviour);
  }

  /**
   * Returns the numbers of the requested pieces, in request order. Without `addr`, includes the
   * requests to all parents.
   */
  numbers(addr?: string): number[] {
    return this.asked
      .filter((request) => addr === undefined || request.addr === addr)
      .map(({ number }) => number);
  }

  bytesOf(number: number): Uint8Array {
    const { offset, length } = this.#extentOf(number);
    return this.content.subarray(offset, offset + length);
  }

  async fetchPiece(
    { addr, number, kind, unverifiedPieces }: SourceRequest,
    { signal }: SourceOptions,
  ): Promise<Piece> {
    const behaviour = this.#behaviours.get(addr);
    if (behaviour === undefined)
      throw new VortexError("ConnectionRefused", `no parent listens at ${addr}`, { addr });
    const bytes = this.bytesOf(number);
    const previousRequests = this.numbers(addr).length;
    const asked = { addr, number };
    this.asked.push(asked);
    const answer = behaviour({ number, bytes, signal, previousRequests });
    if (answer instanceof VortexError) throw answer;
    let counted = 0;
    const count = (now: 0 | 1): void => {
      if (counted !== now) this.#count(addr, now - counted);
      counted = now;
    };
    let read = false;
    const onRead = (): void => {
      if (!read && !signal.aborted) count(1);
      read = true;
    };
    const over = (): void => {
      count(0);
      if (read || !this.asked.includes(asked)) return;
      this.asked.splice(this.asked.indexOf(asked), 1);
      this.digestProbes.push(asked);
    };
    signal.addEventListener("abort", over, { once: true });
    const claim = answer instanceof ClaimedContent ? answer : undefined;
    const digest =
      claim?.digest ?? digestOf(this.#algorithm, claim?.bytes ?? bytes, portableHashers);
    if (digest === "" && unverifiedPieces === "refuse")
      throw new VortexError("ProtocolViolation", "the piece has no digest");
    const { offset, length } = this.#extentOf(number);
    const chunks = checked(answer, digest, over, signal, onRead);
    return pieceOf({ number, kind, offset, length, digest }, chunks, over, (memory) => {
      if (this.#readsInto) this.memory.add(memory);
      return this.#readsInto;
    });
  }

  #extentOf(number: number): { readonly offset: number; readonly length: number } {
    return this.#pieces?.[number] ?? pieceExtent(this.plan, number);
  }

  #count(addr: string, change: number): void {
    this.inFlight.set(addr, (this.inFlight.get(addr) ?? 0) + change);
    this.maxInFlight = Math.max(
      this.maxInFlight,
      [...this.inFlight.values()].reduce((sum, count) => sum + count, 0),
    );
  }
}

/**
 * Yields the chunks of a piece like a real downloader. After an abort it yields no chunk. It yields
 * the last chunk only if the content matches `digest`, unless that is empty.
 */
async function* checked(
  answer: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  digest: string,
  over: () => void,
  signal: AbortSignal,
  onRead: () => void,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  onRead();
  const algorithm = digest.slice(0, digest.indexOf(":")) as DigestAlgorithm;
  const hasher = digest === "" ? undefined : portableHashers(algorithm);
  let last: Uint8Array<ArrayBuffer> | undefined;
  try {
    for await (const chunk of answer) {
      if (signal.aborted) throw abortedError(signal, "the request");
      if (last !== undefined) yield last;
      hasher?.update(chunk);
      last = unshared(chunk);
    }
    if (hasher !== undefined && `${algorithm}:${hasher.encode()}` !== digest)
      throw new VortexError("DigestMismatch", "the content is wrong");
    if (last !== undefined) yield last;
  } finally {
    over();
  }
}

function pieceOf(
  announced: Pick<Piece, "number" | "kind" | "offset" | "length" | "digest">,
  chunks: AsyncGenerator<Uint8Array<ArrayBuffer>, void, void>,
  over: () => void,
  readInto: (memory: ArrayBufferLike) => boolean,
): Piece {
  return {
    ...announced,
    metadata: {
      number: announced.number,
      offset: BigInt(announced.offset),
      length: BigInt(announced.length),
      digest: announced.digest,
      parentId: "",
      trafficType: 1,
      costSeconds: 0n,
      createdAtSeconds: 0n,
    },
    content: new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        pull: async (controller) => {
          const next = await chunks.next();
          if (next.done) controller.close();
          else controller.enqueue(next.value);
        },
      },
      { highWaterMark: 0 },
    ),
    async read(into) {
      const next = await chunks.next();
      if (next.done) return undefined;
      if (into === undefined || into.length < next.value.length || !readInto(into.buffer))
        return next.value;
      into.set(next.value);
      return into.subarray(0, next.value.length);
    },
    bytes: () => Promise.reject(new Error("tasks read the content")),
    cancel: over,
  };
}

/**
 * Returns task settings with the defaults of `createDownloader`, which `options` overrides. Default
 * runtime: one with a fake clock.
 */
export function taskSettings(
  options: Partial<TaskSettings> = {},
  runtime: Runtime = fakeRuntime(),
): TaskSettings {
  return {
    hostId: "vortex-peer",
    concurrentPieceCount: 8,
    parentConcurrency: 32,
    rateLimit: undefined,
    pieceTimeout: 360_000,
    stallTimeout: 30_000,
    patience: 60_000,
    maxPieceLength: 64 * 1024 * 1024,
    runtime,
    ...options,
  };
}

/**
 * Creates a fetcher that downloads from fake parents, and a request for their task from the parents
 * at `addrs`.
 */
export function fetcherOf(
  parents: FakeParents,
  addrs: readonly string[],
  settings: TaskSettings = taskSettings(),
): { readonly fetcher: TaskFetcher; readonly request: TaskStreamOptions } {
  const { contentLength, pieceLength } = parents.plan;
  const request = { taskId, hostId: "h", parents: addrs, contentLength, pieceLength };
  return { fetcher: new TaskFetcher(parents, settings), request };
}
