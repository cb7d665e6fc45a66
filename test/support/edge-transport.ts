/**
 * Edge-worker transport for the compliance suite. It dials inside workerd, which it controls over
 * `edge-wire.ts`, and listens in this process with node:net. It returns the worker's results
 * unchanged.
 */
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { VortexError } from "../../src/errors.ts";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import { AsyncQueue } from "../../src/transport/queue.ts";
import type {
  ByteReader,
  ByteStream,
  ByteWriter,
  CloseInfo,
  Connection,
  DialOptions,
  Listener,
  ListenOptions,
  Transport,
} from "../../src/transport/transport.ts";
import type { EdgeClient } from "./edge-peer.ts";
import {
  type EdgeCall,
  type EdgeFailure,
  type EdgeReport,
  type EdgeSignal,
  FrameStream,
} from "./edge-wire.ts";

interface Reply {
  readonly head: EdgeReport;
  readonly payload: Uint8Array<ArrayBuffer>;
}

/** Transport that dials inside an edge worker. */
export interface EdgeTransport extends Transport {
  /** Closes all dialled connections and the worker. */
  end(): Promise<void>;
}

/**
 * Creates a transport that dials inside the worker of `edge`. The transport's `end` also closes
 * `edge`.
 */
export async function edgeTransport(edge: EdgeClient): Promise<EdgeTransport> {
  const control = await tcpTransport.listen({ host: "127.0.0.1", port: 0 });
  const sessionsByName = new Map<
    string,
    (frames: FrameStream<EdgeReport, EdgeCall>, first: AsyncGenerator<Reply>) => void
  >();
  const sessions: Session[] = [];
  const responses: Promise<unknown>[] = [];
  void (async () => {
    for await (const connection of control.accept()) {
      for await (const stream of connection.accept()) {
        const frames = new FrameStream<EdgeReport, EdgeCall>(stream);
        const reports = frames.frames();
        const { value } = await reports.next();
        if (value !== undefined && "session" in value.head)
          sessionsByName.get(value.head.session)?.(frames, reports);
        break;
      }
    }
  })();
  const startSession = (): Session => {
    const name = String(sessions.length);
    const session = new Session();
    sessions.push(session);
    sessionsByName.set(name, (frames, reports) => session.start(frames, reports));
    const query = new URLSearchParams({ control: formatAddress(control.address), session: name });
    const answer = fetch(new URL(`/session?${query}`, edge.url)).then((response) =>
      response.text(),
    );
    responses.push(answer.catch((error: unknown) => session.fail(error)));
    return session;
  };
  return {
    protocol: "tcp",
    dial: (remote, options) => startSession().dial(remote, options),
    listen: (local: Address, options?: ListenOptions): Promise<Listener> =>
      tcpTransport.listen(local, options),
    async end() {
      await Promise.all(sessions.map((session) => session.end()));
      await Promise.all(responses);
      await control.close({ grace: 0 });
      await edge.close();
    },
  };
}

/** Controls one connection that the worker dials. */
class Session {
  #frames: FrameStream<EdgeReport, EdgeCall> | undefined;
  readonly #queuedCalls: EdgeCall[] = [];
  readonly #calls = new Map<
    number,
    { resolve(reply: Reply): void; reject(error: unknown): void }
  >();
  readonly #signals = new Map<AbortSignal, number>();
  readonly #accepted = new AsyncQueue<ByteStream>();
  #nextCall = 0;
  #nextStream = 0;
  #resolveClosed: (info: CloseInfo) => void = () => {};
  readonly #closed: Promise<CloseInfo> = new Promise((resolve) => {
    this.#resolveClosed = resolve;
  });
  #reading: Promise<void> | undefined;

  /**
   * Connects to the worker by the control stream `frames`. Sends the queued calls, and passes each
   * reply to its call.
   */
  start(frames: FrameStream<EdgeReport, EdgeCall>, reports: AsyncGenerator<Reply>): void {
    this.#frames = frames;
    for (const call of this.#queuedCalls.splice(0)) frames.send(call);
    this.#reading = (async () => {
      for await (const reply of reports) this.#dispatch(reply);
      this.fail(new Error("the worker has ended the session"));
    })();
  }

  /** Rejects all calls that wait for a reply of the worker, with `error`. */
  fail(error: unknown): void {
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  async end(): Promise<void> {
    await this.#frames?.close();
    await this.#reading;
  }

  async dial(remote: Address, options: DialOptions = {}): Promise<Connection> {
    const signal = this.#describeSignal(options.signal);
    const { head } = await this.#call((id) => ({
      do: "dial",
      id,
      remote,
      ...(signal && { signal }),
    }));
    if (!("connection" in head)) throw new Error("the worker dialled but reported no connection");
    return {
      protocol: "tcp",
      ...head.connection,
      earlyData: "none",
      ready: Promise.resolve(),
      closed: this.#closed,
      openStream: ({ signal } = {}) => this.#open(signal),
      accept: () => this.#accepted,
      close: async ({ grace } = {}) => {
        await this.#call((id) => ({ do: "close", id, ...(grace !== undefined && { grace }) }));
      },
      abort: (code, reason) =>
        this.#send({
          do: "abort",
          ...(code !== undefined && { code }),
          ...(reason !== undefined && { reason }),
        }),
    };
  }

  async #open(abort: AbortSignal | undefined): Promise<ByteStream> {
    const signal = this.#describeSignal(abort);
    const stream = this.#nextStream++;
    await this.#call((id) => ({ do: "open", id, stream, ...(signal && { signal }) }));
    const reader: ByteReader = {
      read: async () => {
        const { head, payload } = await this.#call((id) => ({ do: "read", id, stream }));
        return "ended" in head ? undefined : payload;
      },
      cancel: (code) => this.#send({ do: "cancel", stream, ...(code !== undefined && { code }) }),
    };
    const writer: ByteWriter = {
      write: async (chunk) => {
        await this.#call((id) => ({ do: "write", id, stream }), chunk);
      },
      end: async (last) => {
        await this.#call((id) => ({ do: "end", id, stream }), last);
      },
      abort: (code) => this.#send({ do: "reset", stream, ...(code !== undefined && { code }) }),
    };
    return { reader, writer };
  }

  async #call(make: (id: number) => EdgeCall, payload?: Uint8Array): Promise<Reply> {
    const id = this.#nextCall++;
    const reply = await new Promise<Reply>((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#send(make(id), payload);
    });
    if ("failure" in reply.head && reply.head.failure !== undefined)
      throw this.#error(reply.head.failure);
    return reply;
  }

  #send(call: EdgeCall, payload?: Uint8Array): void {
    // Before the control stream is attached, only `dial` is called, which has no payload.
    if (this.#frames === undefined) this.#queuedCalls.push(call);
    else this.#frames.send(call, payload);
  }

  #dispatch(reply: Reply): void {
    const { head } = reply;
    if ("id" in head) {
      this.#calls.get(head.id)?.resolve(reply);
      this.#calls.delete(head.id);
    } else if ("closed" in head) {
      const { failure, ...info } = head.closed;
      this.#resolveClosed({ ...info, error: this.#error(failure) });
    } else if ("accepted" in head) {
      if (head.accepted > 0) throw new Error(`the worker accepted ${head.accepted} streams`);
      this.#accepted.end();
    }
  }

  /**
   * Describes a signal for the worker by a number. When the signal aborts, informs the worker.
   * Returns undefined without a signal.
   */
  #describeSignal(signal: AbortSignal | undefined): EdgeSignal | undefined {
    if (signal === undefined) return undefined;
    const known = this.#signals.get(signal);
    const number = known ?? this.#signals.size;
    this.#signals.set(signal, number);
    const described = (): EdgeSignal => {
      const { reason } = signal;
      const code = reason instanceof VortexError ? { code: reason.code } : {};
      return {
        number,
        ...(signal.aborted && { reason: { message: String(reason?.message ?? reason), ...code } }),
      };
    };
    if (known === undefined) {
      signal.addEventListener("abort", () => this.#send({ do: "fire", signal: described() }), {
        once: true,
      });
    }
    return described();
  }

  #error({ code, message, reasonOf, causeOf }: EdgeFailure): VortexError {
    for (const [{ reason }, number] of this.#signals) {
      if (number === reasonOf) return reason;
      if (number === causeOf) return new VortexError(code, message, { cause: reason });
    }
    return new VortexError(code, message);
  }
}
