/** Loopback addresses and free ports for programs of a lab. */
import { connect, createServer } from "node:net";

/** Loopback network of one lab, 127.a.b.0/24, so that labs do not collide. */
export class LabNetwork {
  readonly #prefix: string;
  #last = 1;

  constructor() {
    const [a = 0, b = 0] = crypto.getRandomValues(new Uint8Array(2));
    this.#prefix = `127.${64 + (a % 64)}.${b}`;
  }

  /** Returns the next unused address of the network. */
  next(): string {
    this.#last++;
    return `${this.#prefix}.${this.#last}`;
  }
}

/** Returns a free port of `ip` for each name. */
export async function freePorts<Name extends string>(
  ip: string,
  names: readonly Name[],
): Promise<Record<Name, number>> {
  const ports = new Set<number>();
  while (ports.size < names.length) ports.add(await freePort(ip));
  const chosen = [...ports];
  return Object.fromEntries(names.map((name, index) => [name, chosen[index]])) as Record<
    Name,
    number
  >;
}

/**
 * Returns a free port below the range of ephemeral ports. Otherwise a connection of the daemon, or
 * of the test to the daemon, could use the port as its source port before the daemon listens.
 */
export async function freePort(ip: string): Promise<number> {
  for (;;) {
    const [random = 0] = crypto.getRandomValues(new Uint16Array(1));
    const port = 10_000 + (random % 22_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, ip, () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

/** Waits up to a minute until a TCP port accepts connections. */
export function reachable(host: string, port: number): Promise<void> {
  return accepting({ host, port }, `${host}:${port}`);
}

/** Waits up to a minute until a Unix socket accepts connections. */
export function reachableSocket(path: string): Promise<void> {
  return accepting({ path }, path);
}

async function accepting(
  options: { readonly host: string; readonly port: number } | { readonly path: string },
  name: string,
): Promise<void> {
  for (const deadline = Date.now() + 60_000; ; ) {
    const connected = await new Promise<boolean>((resolve) => {
      const socket = connect(options);
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      socket.once("error", () => resolve(false));
    });
    if (connected) return;
    if (Date.now() > deadline) throw new Error(`nothing listens at ${name} after a minute`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
