import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import type { Address } from "../../src/transport/address.ts";
import { startProgram } from "./run.ts";

/** Address that receives datagrams or connection attempts, and never responds. */
export interface SilentHost {
  readonly address: Address;
  close(): Promise<void>;
}

/** Opens a UDP port that receives datagrams and never responds. */
export async function silentUdpHost(host = "127.0.0.1"): Promise<SilentHost> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind({ address: host, port: 0 }, resolve));
  return {
    address: { host, port: socket.address().port },
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

/** Number of TCP connections that the Linux kernel accepts for a backlog of one. */
const ACCEPTED_CONNECTIONS = 2;

/**
 * Opens a TCP port that never responds to further connection attempts, because its process is
 * stopped and its backlog is full. The process always runs Node, because not every runtime can set
 * the backlog.
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
