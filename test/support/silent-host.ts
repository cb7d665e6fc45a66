import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import type { Address } from "../../src/transport/address.ts";
import { startProgram } from "./run.ts";

/** An address where datagrams, or attempts to connect, arrive and nobody answers. */
export interface SilentHost {
  readonly address: Address;
  close(): Promise<void>;
}

/** A UDP port whose owner says nothing. */
export async function silentUdpHost(host = "127.0.0.1"): Promise<SilentHost> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind({ address: host, port: 0 }, resolve));
  return {
    address: { host, port: socket.address().port },
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

/** Connections that the kernel takes for a program that asks for a queue of one (Linux: one more). */
const QUEUED = 2;

/**
 * A TCP port of a process that is stopped, with its queue of connections full: the kernel leaves further attempts without an
 * answer. The program is Node's on every runtime, since not each lets the length of the queue be chosen.
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
    for (let attempt = 0; attempt < 8 * QUEUED; attempt++) {
      const socket = connect({ host, port });
      socket.on("error", () => {});
      socket.once("connect", () => {
        connected++;
        if (connected === QUEUED) resolve();
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
