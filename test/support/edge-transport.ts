/**
 * The transport of edge workers for the compliance suite: it dials inside workerd, by way of `edge-wire.ts`, and listens here, on
 * node:net. Nothing of the transport is done on this side; the worker's answers are handed on as they are.
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
  readonly payload: Uint8Array;
}

/** A transport that dials inside a worker. */
export interface EdgeTransport extends Transport {
  /** Ends what was dialled, and the worker. */
  end(): Promise<void>;
}

/** The transport of `edge`, which is ended with it. */
export async function edgeTransport(edge: EdgeClient): Promise<EdgeTransport> {
  const control = await tcpTransport.listen({ host: "127.0.0.1", port: 0 });
  const waiting = new Map<
    string,
    (frames: FrameStream<EdgeReport, EdgeCall>, first: AsyncGenerator<Reply>) => void
  >();
  const sessions: Session[] = [];
  const answers: Promise<unknown>[] = [];
  void (async () => {
    for await (const connection of control.accept()) {
      for await (const stream of connection.accept()) {
        const frames = new FrameStream<EdgeReport, EdgeCall>(stream);
        const reports = frames.frames();
        const { value } = await reports.next();
        if (value !== undefined && "session" in value.head)
          waiting.get(value.head.session)?.(frames, reports);
        break;
      }
    }
  })();
  const begin = (): Session => {
    const name = String(sessions.length);
    const session = new Session();
    sessions.push(session);
    waiting.set(name, (frames, reports) => session.start(frames, reports));
    const query = new URLSearchParams({ control: formatAddress(control.address), session: name });
    const answer = fetch(new URL(`/session?${query}`, edge.url)).then((response) =>
      response.text(),
    );
    answers.push(answer.catch((error: unknown) => session.fail(error)));
    return session;
  };
  return {
    protocol: "tcp",
    dial: (remote, options) => begin().dial(remote, options),
    listen: (local: Address, options?: ListenOptions): Promise<Listener> =>
      tcpTransport.listen(local, options),
    async end() {
      await Promise.all(sessions.map((session) => session.end()));
      await Promise.all(answers);
      await control.close({ grace: 0 });
      await edge.close();
    },
  };
}

/** One connection inside the worker. */
class Session {
  #frames: FrameStream<EdgeReport, EdgeCall> | undefined;
  readonly #early: EdgeCall[] = [];
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

  /** The worker is there: sends what was asked for until now, and hands out what it answers. */
  start(frames: FrameStream<EdgeReport, EdgeCall>, reports: AsyncGenerator<Reply>): void {
    this.#frames = frames;
    for (const call of this.#early.splice(0)) frames.send(call);
    this.#reading = (async () => {
      for await (const reply of reports) this.#take(reply);
      this.fail(new Error("the worker has ended the session"));
    })();
  }

  /** Nothing is answered any more. */
  fail(error: unknown): void {
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  async end(): Promise<void> {
    await this.#frames?.close();
    await this.#reading;
  }

  async dial(remote: Address, options: DialOptions = {}): Promise<Connection> {
    const signal = this.#know(options.signal);
    const { head } = await this.#call((id) => ({
      do: "dial",
      id,
      remote,
      ...(signal && { signal }),
    }));
    if (!("connection" in head))
      throw new Error("the worker has dialled and tells of no connection");
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
    const signal = this.#know(abort);
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
    // Only dialling comes before the worker is there, and it has no payload.
    if (this.#frames === undefined) this.#early.push(call);
    else this.#frames.send(call, payload);
  }

  #take(reply: Reply): void {
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

  /** Gives a signal a number, and tells the worker when it fires. */
  #know(signal: AbortSignal | undefined): EdgeSignal | undefined {
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
