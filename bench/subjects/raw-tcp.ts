/** node:net without this library: a request of 8 bytes, answered by the bytes alone. */
import { connect, createServer, type Socket } from "node:net";
import {
  answerTo,
  type Client,
  type Content,
  encodeRequest,
  REQUEST_BYTES,
  type Serving,
  type Subject,
} from "../subject.ts";

/** One connection for each request, like peers over TCP. */
export const perRequest: Subject = {
  serve: (content, host) =>
    serve(host, (socket) => {
      onRequests(socket, (request) => socket.end(answerTo(request, content)));
    }),

  async dial({ host, port }): Promise<Client> {
    const settings = {
      host,
      port,
      allowHalfOpen: true,
      noDelay: true,
      highWaterMark: READ_AHEAD_BYTES,
    };
    return {
      fetch: (piece, onFirstByte) =>
        new Promise((resolve, reject) => {
          const socket = connect(settings);
          let length = 0;
          socket.on("data", (chunk) => {
            if (length === 0) onFirstByte?.();
            length += chunk.length;
          });
          socket.once("end", () => resolve(length));
          socket.once("error", reject);
          socket.end(encodeRequest(piece));
        }),
      close: async () => {},
    };
  },
};

/** One connection for all requests; answers come in the order of the requests. */
export const kept: Subject = {
  serve: (content, host) => serve(host, (socket) => answerInTurn(socket, content)),

  async dial({ host, port }): Promise<Client> {
    const settings = { host, port, noDelay: true, highWaterMark: READ_AHEAD_BYTES };
    const socket = connect(settings);
    interface Waiting {
      readonly length: number;
      left: number;
      readonly onFirstByte: (() => void) | undefined;
      readonly resolve: (length: number) => void;
      readonly reject: (error: Error) => void;
    }
    const waiting: Waiting[] = [];
    socket.on("data", (chunk) => {
      let rest = chunk.length;
      while (rest > 0) {
        const [first] = waiting;
        if (first === undefined) return;
        if (first.left === first.length) first.onFirstByte?.();
        const taken = Math.min(first.left, rest);
        first.left -= taken;
        rest -= taken;
        if (first.left > 0) return;
        waiting.shift();
        first.resolve(first.length);
      }
    });
    socket.on("error", (error) => {
      for (const { reject } of waiting.splice(0)) reject(error);
    });
    socket.on("close", () => {
      for (const { reject } of waiting.splice(0)) reject(new Error("the connection was closed"));
    });
    return {
      fetch: (piece, onFirstByte) =>
        new Promise((resolve, reject) => {
          const { pieceLength: length } = piece;
          waiting.push({ length, left: length, onFirstByte, resolve, reject });
          socket.write(encodeRequest(piece));
        }),
      close: async () => {
        socket.destroy();
      },
    };
  },
};

/** Read-ahead in bytes, the value of the adapter. */
const READ_AHEAD_BYTES = 512 * 1024;

async function serve(host: string, onSocket: (socket: Socket) => void): Promise<Serving> {
  const server = createServer(
    { allowHalfOpen: true, noDelay: true, highWaterMark: READ_AHEAD_BYTES },
    (socket) => {
      // Clients may end their connections at any time.
      socket.on("error", () => socket.destroy());
      onSocket(socket);
    },
  );
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port: 0 }, resolve);
  });
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    peer: { host, port },
    close: async () => {
      server.close();
    },
  };
}

/** Writes one answer after the other, each as fast as the peer accepts it. */
function answerInTurn(socket: Socket, content: Content): void {
  const requests: Uint8Array[] = [];
  let writing = false;
  const next = (): void => {
    for (let request = requests.shift(); request !== undefined; request = requests.shift()) {
      writing = !socket.write(answerTo(request, content));
      if (writing) return;
    }
  };
  socket.on("drain", () => {
    writing = false;
    next();
  });
  socket.once("end", () => socket.end());
  onRequests(socket, (request) => {
    requests.push(request);
    if (!writing) next();
  });
}

function onRequests(socket: Socket, onRequest: (request: Uint8Array) => void): void {
  let held = new Uint8Array(0);
  socket.on("data", (chunk: Uint8Array) => {
    let bytes = chunk;
    if (held.length > 0) {
      bytes = new Uint8Array(held.length + chunk.length);
      bytes.set(held);
      bytes.set(chunk, held.length);
    }
    let at = 0;
    for (; at + REQUEST_BYTES <= bytes.length; at += REQUEST_BYTES) {
      onRequest(bytes.subarray(at, at + REQUEST_BYTES));
    }
    held = bytes.slice(at);
  });
}
