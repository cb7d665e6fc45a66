/**
 * Runs a real Dragonfly on this machine: a scheduler, one dfdaemon as seed peer, and an origin.
 * Each lab uses a separate loopback address, so several labs can run at once. It needs no manager,
 * database or Redis.
 */
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { type Outcome, type Program, runToEnd, startProgram } from "../support/run.ts";

/** Supported versions of dfdaemon. */
export const dfdaemonVersions = ["1.4.8", "1.5.2", "1.5.10"] as const;

/** Version of dfdaemon. */
export type DfdaemonVersion = (typeof dfdaemonVersions)[number];

const SCHEDULER = "scheduler-2.5.1";
/** One dfget serves all versions: it only talks to the local daemon, whose API is the same. */
const DFGET = "dfget-1.5.10";

/** Directory of the built programs, each named `NAME-VERSION`. */
const programs =
  process.env.VORTEX_PEER_LAB ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "vortex-peer", "dragonfly");

/** Returns the reason why a version of dfdaemon cannot be started; undefined if it can. */
export function missingProgram(version: DfdaemonVersion): string | undefined {
  const missing = [SCHEDULER, DFGET, `dfdaemon-${version}`].find(
    (name) => !existsSync(join(programs, name)),
  );
  return missing && `Dragonfly's ${missing} is not in the directory named by VORTEX_PEER_LAB`;
}

/** Running lab. */
export interface Lab {
  /** Addresses of the seed peer's upload servers; `grpc` is its Dragonfly API. */
  readonly addresses: Required<PeerAddresses>;
  /** Makes the seed peer fetch `content` from the origin. Resolves with the task id. */
  seed(content: Uint8Array): Promise<string>;
  /** Returns true while the seed peer's process runs. */
  isAlive(): boolean;
  /** Resolves when the seed peer's process has ended. */
  readonly ended: Promise<Outcome>;
  /** Kills all programs and removes their files. */
  close(): Promise<void>;
}

/** Starts a lab. If a program does not start, rejects with the logs of all programs. */
export async function startLab(version: DfdaemonVersion): Promise<Lab> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-lab-"));
  const children: Program[] = [];
  const ip = ownAddress();
  const close = async (): Promise<void> => {
    for (const child of children) child.kill();
    await Promise.allSettled(children.map(({ ended }) => ended));
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const schedulerPort = await freePort(ip);
    const scheduler = await writeConfig(
      directory,
      "scheduler.yaml",
      schedulerConfig(directory, ip, schedulerPort),
    );
    children.push(startProgram([join(programs, SCHEDULER), "--config", scheduler]));
    await reachable(ip, schedulerPort);

    const ports = await freePorts(ip, [
      "api",
      "tcp",
      "quic",
      "proxy",
      "health",
      "metrics",
      "stats",
    ]);
    const config = await writeConfig(
      directory,
      "dfdaemon.yaml",
      dfdaemonConfig(directory, ip, ports),
    );
    const dynconfig = await writeConfig(directory, "dynconfig.yaml", {
      scheduler: { addrs: [`${ip}:${schedulerPort}`] },
    });
    const log = join(directory, "log");
    const daemon = startProgram([
      join(programs, `dfdaemon-${version}`),
      ...[
        "--config",
        config,
        "--dynconfig",
        dynconfig,
        "--log-dir",
        log,
        "--log-level",
        "info",
        "--console",
      ],
    ]);
    children.push(daemon);
    let alive = true;
    const ended = daemon.ended.finally(() => {
      alive = false;
    });
    await reachable(ip, ports.api);
    await reachable(ip, ports.tcp);
    return {
      addresses: {
        quic: `${ip}:${ports.quic}`,
        tcp: `${ip}:${ports.tcp}`,
        grpc: `${ip}:${ports.api}`,
      },
      seed: (content) => seed(directory, ip, content),
      isAlive: () => alive,
      ended,
      close,
    };
  } catch (error) {
    for (const child of children) child.kill();
    const logs = await Promise.all(
      children.map(({ ended }) => ended.then(({ out, err }) => (out + err).slice(-2000))),
    );
    await close();
    throw new Error(`the lab did not start: ${logs.join("\n")}`, { cause: error });
  }
}

async function seed(directory: string, ip: string, content: Uint8Array): Promise<string> {
  const origin = await startOrigin(ip, content);
  const { port } = origin.address() as AddressInfo;
  const output = join(directory, "output");
  const tasks = join(directory, "storage", "content", "tasks");
  const before = await taskIds(tasks);
  try {
    const { code, out, err } = await runToEnd([
      join(programs, DFGET),
      `http://${ip}:${port}/${crypto.randomUUID()}`,
      ...["-O", output, "--endpoint", join(directory, "dfdaemon.sock"), "--no-progress"],
    ]);
    if (code !== 0) throw new Error(`dfget ended with ${code}: ${out}${err}`);
    const got = await readFile(output);
    if (got.compare(content) !== 0) throw new Error("dfget fetched the wrong content");
  } finally {
    origin.closeAllConnections();
    origin.close();
    await rm(output, { force: true });
  }
  const [taskId] = (await taskIds(tasks)).filter((id) => !before.includes(id));
  if (taskId === undefined) throw new Error("the seed peer did not store the task");
  return taskId;
}

/** Lists the task ids in a dfdaemon's storage, which groups them in directories by prefix. */
async function taskIds(tasks: string): Promise<string[]> {
  if (!existsSync(tasks)) return [];
  return (await readdir(tasks, { recursive: true }))
    .map((path) => String(path).split("/").at(-1) ?? "")
    .filter((name) => /^[0-9a-f]{64}$/.test(name));
}

/** Starts the origin, an HTTP server with range requests, which dfdaemon uses. */
async function startOrigin(ip: string, content: Uint8Array): Promise<Server> {
  const server = createServer((request, response) => {
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
    const start = Number(first ?? 0);
    const end =
      last === undefined || last === ""
        ? content.length - 1
        : Math.min(Number(last), content.length - 1);
    response.writeHead(first === undefined ? 200 : 206, {
      "accept-ranges": "bytes",
      "content-length": end - start + 1,
      ...(first !== undefined && { "content-range": `bytes ${start}-${end}/${content.length}` }),
    });
    response.end(request.method === "HEAD" ? undefined : content.subarray(start, end + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, ip, resolve));
  return server;
}

/** Returns a random loopback address, so that labs do not collide. */
function ownAddress(): string {
  const [a = 0, b = 0, c = 0] = crypto.getRandomValues(new Uint8Array(3));
  return `127.${64 + (a % 64)}.${b}.${2 + (c % 252)}`;
}

async function freePorts<Name extends string>(
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
async function freePort(ip: string): Promise<number> {
  for (;;) {
    const [random = 0] = crypto.getRandomValues(new Uint16Array(1));
    const port = 10_000 + (random % 22_000);
    const server = createTcpServer();
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
async function reachable(host: string, port: number): Promise<void> {
  for (const deadline = Date.now() + 60_000; ; ) {
    const connected = await new Promise<boolean>((resolve) => {
      const socket = connect({ host, port });
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("close", () => {}).once("connect", () => socket.destroy());
    });
    if (connected) return;
    if (Date.now() > deadline) throw new Error(`nothing listens at ${host}:${port} after a minute`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Writes a configuration file as JSON, which is valid YAML. */
async function writeConfig(directory: string, name: string, config: object): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, JSON.stringify(config));
  return path;
}

function schedulerConfig(directory: string, ip: string, port: number): object {
  return {
    server: {
      ...{ advertiseIP: ip, advertisePort: port, listenIP: ip, port, host: "lab-scheduler" },
      ...{
        logDir: join(directory, "scheduler", "logs"),
        pluginDir: join(directory, "scheduler", "plugins"),
      },
    },
    scheduler: {
      algorithm: "default",
      retryBackToSourceLimit: 4,
      retryLimit: 5,
      retryInterval: "500ms",
    },
    job: { enable: false },
    metrics: { enable: false },
    console: true,
  };
}

function dfdaemonConfig(
  directory: string,
  ip: string,
  ports: Record<"api" | "tcp" | "quic" | "proxy" | "health" | "metrics" | "stats", number>,
): object {
  const at = (port: number): object => ({ server: { ip, port } });
  return {
    host: { hostname: "seed", ip },
    server: { pluginDir: join(directory, "plugins"), cacheDir: join(directory, "cache") },
    download: { protocol: "tcp", server: { socketPath: join(directory, "dfdaemon.sock") } },
    upload: at(ports.api),
    scheduler: { announceInterval: "10s" },
    seedPeer: { enable: true, type: "super" },
    dynconfig: { refreshInterval: "10s" },
    storage: {
      server: { ip, tcpPort: ports.tcp, quicPort: ports.quic },
      dir: join(directory, "storage"),
    },
    proxy: at(ports.proxy),
    health: at(ports.health),
    metrics: at(ports.metrics),
    stats: at(ports.stats),
  };
}
