/**
 * quiche without this library's event loop: the throughput of its binding and node:dgram without
 * verification, pool or streams API. It uses a stream for each request, settings and TLS of the
 * adapter, and one loop for both sides.
 */
import { randomBytes } from "node:crypto";
import type { Socket } from "node:dgram";
import { udpSocket } from "../../adapters/quiche/datagrams.ts";
import {
  loadQuiche,
  type NativeConfig,
  type NativeConnection,
  type Quiche,
} from "../../adapters/quiche/native.ts";
import {
  applySettings,
  type QuicheSettings,
  quicheSettings,
  udpPayloadFor,
} from "../../adapters/quiche/options.ts";
import { clientConfig, serverConfig } from "../../adapters/quiche/tls.ts";
import { isSameHost } from "../../adapters/shared/local-address.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { DEFAULT_MAX_STREAMS } from "../../src/transport/transport.ts";
import { answerTo, type Client, encodeRequest, type Serving, type Subject } from "../subject.ts";

export const bareQuiche: Subject = {
  async serve(content, host): Promise<Serving> {
    const quiche = await loadQuiche();
    const identity = await selfSigned();
    const socket = udpSocket(4, settings.socketBuffer);
    await new Promise<void>((resolve) => socket.bind({ address: host, port: 0 }, resolve));
    const { port } = socket.address();
    // Each client has a separate connected socket, so the port identifies its loop.
    const loops = new Map<number, Loop>();
    const ring: Ring = { buffers: [], next: 0 };
    const configs = new Map<number, NativeConfig>();
    const scratch = new Uint8Array(64);
    socket.on("message", (datagram: Uint8Array, from) => {
      let loop = loops.get(from.port);
      if (loop === undefined) {
        const payload = udpPayloadFor(settings, isSameHost(from.address));
        const config = configs.get(payload) ?? serverConfig(quiche, identity, undefined);
        if (!configs.has(payload)) applySettings(config, settings, DEFAULT_MAX_STREAMS, payload);
        configs.set(payload, config);
        const local = { host, port };
        const peer = { host: from.address, port: from.port };
        const native = quiche.Connection.accept(randomBytes(ID_LENGTH), null, local, peer, config);
        const answers = new Map<number, Uint8Array>();
        loop = new Loop(native, socket, ring, payload, { to: local, from: peer }, peer, () => {
          for (const id of native.readable()) {
            if (native.streamRecv(id, scratch) !== null && !answers.has(id))
              answers.set(id, answerTo(scratch, content));
          }
          for (const [id, rest] of answers) {
            const sent = native.streamSend(id, rest, true) ?? 0;
            if (sent === rest.length) answers.delete(id);
            else answers.set(id, rest.subarray(sent));
            // The connection window is exhausted, which all streams share.
            if (sent < rest.length) break;
          }
        });
        loop.onGone = () => loops.delete(from.port);
        loops.set(from.port, loop);
      }
      loop.receive(datagram);
    });
    socket.on("error", () => {});
    return {
      peer: { host, port },
      async close() {
        for (const loop of loops.values()) loop.close();
        socket.close();
      },
    };
  },

  async dial({ host, port }): Promise<Client> {
    const quiche = await loadQuiche();
    const socket = udpSocket(4, settings.socketBuffer);
    await new Promise<void>((resolve) => socket.connect(port, host, resolve));
    const loop = dialled(quiche, socket, { host, port });
    socket.on("message", (datagram: Uint8Array) => loop.receive(datagram));
    socket.on("error", (error) => loop.fail(error));
    loop.flush();
    await loop.established;
    return {
      fetch: (piece, onFirstByte) => loop.fetch(encodeRequest(piece), onFirstByte),
      async close() {
        loop.close();
        socket.close();
      },
    };
  },
};

const settings: QuicheSettings = quicheSettings();
const ID_LENGTH = 16;
/**
 * Datagrams received before packets are sent, where the event loop does not turn by itself (Bun).
 */
const BATCH = 32;
const RING = 256;

interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Packet buffers, reused after the socket has sent all of them. */
interface Ring {
  buffers: Uint8Array[];
  next: number;
}

interface Fetching {
  length: number;
  readonly onFirstByte: (() => void) | undefined;
  readonly resolve: (length: number) => void;
  readonly reject: (error: Error) => void;
}

/** One connection: receives a batch of datagrams, does its work, and sends pending packets. */
class Loop {
  onGone: () => void = () => {};
  readonly #native: NativeConnection;
  readonly #socket: Socket;
  readonly #ring: Ring;
  readonly #payload: number;
  readonly #recvInfo: { readonly to: HostPort; readonly from: HostPort };
  /** Peer address; undefined for a connected socket. */
  readonly #peer: HostPort | undefined;
  readonly #work: () => void;
  #established = false;
  #received = 0;
  #scheduled = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = 0;

  constructor(
    native: NativeConnection,
    socket: Socket,
    ring: Ring,
    payload: number,
    recvInfo: { readonly to: HostPort; readonly from: HostPort },
    peer: HostPort | undefined,
    work: () => void,
  ) {
    this.#native = native;
    this.#socket = socket;
    this.#ring = ring;
    this.#payload = payload;
    this.#recvInfo = recvInfo;
    this.#peer = peer;
    this.#work = work;
  }

  receive(datagram: Uint8Array): void {
    try {
      this.#native.recv(datagram, this.#recvInfo);
    } catch {
      // The state of the connection shows the result.
    }
    if (++this.#received >= BATCH) this.flush();
    else this.schedule();
  }

  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      if (this.#scheduled) this.flush();
    });
  }

  flush(): void {
    this.#scheduled = false;
    this.#received = 0;
    this.#established ||= this.#native.isEstablished();
    if (this.#established) this.#work();
    this.#send();
    this.#arm();
    if (this.#native.isClosed()) {
      clearTimeout(this.#timer);
      this.onGone();
    }
  }

  close(): void {
    try {
      this.#native.close(true, 0, new Uint8Array(0));
    } catch {
      // Already closed.
    }
    this.#send();
    clearTimeout(this.#timer);
  }

  #send(): void {
    const ring = this.#ring;
    if (ring.next >= 8 && this.#socket.getSendQueueCount() === 0) ring.next = 0;
    for (;;) {
      let buffer = ring.buffers[ring.next];
      if (buffer === undefined || buffer.length < this.#payload) {
        buffer = new Uint8Array(this.#payload);
        ring.buffers[ring.next] = buffer;
      }
      const packet = this.#native.send(buffer);
      if (packet === null) return;
      if (this.#peer === undefined) this.#socket.send(buffer, 0, packet[0]);
      else this.#socket.send(buffer, 0, packet[0], this.#peer.port, this.#peer.host);
      if (++ring.next < RING) continue;
      ring.next = 0;
      if (this.#socket.getSendQueueCount() > 0) ring.buffers = [];
    }
  }

  /** Sets the timer again only when it must fire earlier. */
  #arm(): void {
    const timeout = this.#native.timeout();
    if (timeout === null) return;
    const at = performance.now() + timeout;
    if (this.#timer !== undefined && this.#timerAt <= at) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const left = this.#native.timeout();
      if (left !== null && left <= 0) this.#native.onTimeout();
      this.flush();
    }, timeout + 1);
  }
}

/** Connection of a client, with its requests. */
interface DialledLoop {
  receive(datagram: Uint8Array): void;
  flush(): void;
  close(): void;
  fail(error: Error): void;
  fetch(request: Uint8Array, onFirstByte: (() => void) | undefined): Promise<number>;
  readonly established: Promise<void>;
}

function dialled(quiche: Quiche, socket: Socket, peer: HostPort): DialledLoop {
  const payload = udpPayloadFor(settings, isSameHost(peer.host));
  const config = clientConfig(quiche, { verify: false });
  applySettings(config, settings, 0, payload);
  const bound = socket.address();
  const local = { host: bound.address, port: bound.port };
  const native = quiche.Connection.connect(null, randomBytes(ID_LENGTH), local, peer, config);
  const fetching = new Map<number, Fetching>();
  /** Requests that wait for stream credit. */
  const waiting: (() => void)[] = [];
  const scratch = new Uint8Array(64 * 1024);
  let nextId = 0;
  let onEstablished = (): void => {};
  let fail = (_error: Error): void => {};
  const established = new Promise<void>((resolve, reject) => {
    onEstablished = resolve;
    fail = (error) => {
      reject(error);
      for (const each of fetching.values()) each.reject(error);
      fetching.clear();
    };
  });
  const loop = new Loop(
    native,
    socket,
    { buffers: [], next: 0 },
    payload,
    { to: local, from: peer },
    undefined,
    () => {
      onEstablished();
      for (const id of native.readable()) read(id);
      while (waiting.length > 0 && native.peerStreamsLeftBidi() > 0) waiting.shift()?.();
    },
  );
  loop.onGone = () => fail(new Error("the connection ended"));
  const read = (id: number): void => {
    const each = fetching.get(id);
    if (each === undefined) return;
    for (;;) {
      const received = native.streamRecv(id, scratch);
      if (received === null) return;
      const [length, ended] = received;
      if (each.length === 0) each.onFirstByte?.();
      each.length += length;
      if (ended) {
        fetching.delete(id);
        each.resolve(each.length);
        return;
      }
      // A short read means that no more data is available.
      if (length < scratch.length) return;
    }
  };
  const open = (request: Uint8Array, each: Fetching): void => {
    const id = nextId;
    nextId += 4;
    fetching.set(id, each);
    native.streamSend(id, request, true);
    loop.schedule();
  };
  return {
    established,
    receive: (datagram) => loop.receive(datagram),
    flush: () => loop.flush(),
    close: () => loop.close(),
    fail: (error) => fail(error),
    fetch: (request, onFirstByte) =>
      new Promise((resolve, reject) => {
        const each = { length: 0, onFirstByte, resolve, reject };
        if (native.peerStreamsLeftBidi() > 0) open(request, each);
        else waiting.push(() => open(request, each));
      }),
  };
}
