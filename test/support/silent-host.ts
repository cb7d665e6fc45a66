import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import type { Address } from "../../src/transport/address.ts";
import { startProgram } from "./run.ts";

/** An address that receives datagrams or connection attempts and never answers. */
export interface SilentHost {
  readonly address: Address;
  close(): Promise<void>;
}

/** Opens a UDP port that never answers. */
export async function silentUdpHost(host = "127.0.0.1"): Promise<SilentHost> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind({ address: host, port: 0 }, resolve));
  return {
    address: { host, port: socket.address().port },
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

/** Connections that the kernel accepts for a backlog of one (Linux: one more). */
const ACCEPTED_CONNECTIONS = 2;

/**
 * Opens a TCP port whose process is stopped and whose backlog is full, so that the kernel leaves
 * further attempts unanswered. The program runs on Node in any case, since not every runtime can
 * set the backlog.
 */
export async function silentTcpHost(host = "127.0.0.1"): Promise<SilentHost> {
  const program = startProgram([
    "node",
    "-e",
    'const server = require("node:net").createServer(); ' +
      "server.listen({ host: process.argv[1], port: 0, backlog: 1 }, () => console.log(server.address().port))",
    host,
  ]);
  const port = Number(await program.line());
  program.kill("SIGSTOP");
  const waiting: Socket[] = [];
  await new Promise<void>((resolve) => {
    let connected = 0;
    for (let attempt = 0; attempt < 8 * ACCEPTED_CONNECTIONS; attempt++) {
      const socket = connect({ host, port });
      socket.on("error", () => {});
      socket.once("connect", () => {
        connected++;
        if (connected === ACCEPTED_CONNECTIONS) resolve();
      });
      waiting.push(socket);
    }
  });
  return {
    address: { host, port },
    async close() {
      for (const socket of waiting) socket.destroy();
      program.kill();
      await program.ended;
    },
  };
}
