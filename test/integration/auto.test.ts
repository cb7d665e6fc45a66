import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { type ProtocolChoice, protocolChoices } from "../../src/transport/protocol.ts";
import type { StockPeer } from "../interop/stock-peer.ts";
import { STOCK_PIECE_LENGTH, STOCK_PIECES, stockPiece } from "../interop/stock-wire.ts";
import type { AutoFetchOptions, AutoFetchResult } from "../support/auto-fetch.ts";
import type { AutoPeerOptions } from "../support/auto-peer.ts";
import { skipped } from "../support/fixture.ts";
import { seededBytes } from "../support/random.ts";
import { type Program, root, runner, startProgram } from "../support/run.ts";

const taskId = "a1".repeat(32);
const seed = 11;
const pieceLength = 256 * 1024;
const contentLength = 24 * pieceLength + 1000;
const timeout = 120_000;

/**
 * Command prefix that trusts any certificate: on Deno, `verify: false` needs a flag of the process.
 */
const [executable = "", run = "", ...flags] = runner;
const trusting =
  "Deno" in globalThis
    ? [executable, run, "--unsafely-ignore-certificate-errors", ...flags]
    : runner;

/** Command prefix that runs a program in another network namespace. */
type Prefix = readonly string[];

describe("one program, whatever the configuration says", () => {
  for (const protocol of protocolChoices) {
    it(`fetches the same file by ${protocol}`, { timeout }, async () => {
      await inDirectory(async (directory, programs) => {
        const { addr } = await startPeer(programs, { quic: 0, tcp: 0, grpc: 0 });
        const fetcher = await startFetcher(programs, directory, protocol, addr);
        const { chosen, parents } = await assertFetches(fetcher, directory);
        const reported: Partial<Record<string, readonly string[]>> = {
          auto: ["quic"],
          hybrid: ["grpc", "quic", "tcp"],
        };
        assert.deepEqual(chosen.map((one) => one.protocol).sort(), reported[protocol] ?? []);
        const used = parents[0]?.routes
          ?.filter(({ bytes }) => bytes > 0)
          .map((route) => route.protocol);
        if (protocol === "hybrid")
          assert.ok(used !== undefined && used.length > 1, JSON.stringify(parents));
        else assert.equal(used, undefined);
      });
    });
  }
});

describe("auto", () => {
  it("fetches from a peer that serves gRPC only", { timeout }, async () => {
    await inDirectory(async (directory, programs) => {
      const { addr } = await startPeer(programs, { quic: 0, tcp: 0, grpc: 0 });
      const other = await startPeer(programs, { grpc: 0 });
      await end(programs, 0);
      const fetcher = await startFetcher(programs, directory, "auto", { ...addr, ...other.addr });
      const { chosen } = await assertFetches(fetcher, directory);
      assert.deepEqual(
        chosen.map(({ protocol }) => protocol),
        ["grpc"],
      );
    });
  });

  it("continues with a peer that restarts with another protocol", { timeout }, async () => {
    await inDirectory(async (directory, programs) => {
      const first = await startPeer(programs, { quic: 0, tcp: 0 });
      const tcp = Number(first.addr.tcp?.split(":")[1]);
      const fetcher = await startFetcher(programs, directory, "auto", first.addr);
      const before = await assertFetches(fetcher, directory);
      await end(programs, 0);
      await startPeer(programs, { tcp });
      const after = await assertFetches(fetcher, directory);
      assert.deepEqual(
        [...before.chosen, ...after.chosen].map(({ protocol }) => protocol),
        ["quic", "tcp"],
      );
    });
  });

  const deno = `${root}node_modules/.bin/deno`;
  it("fetches from a stock peer, which keeps running", { timeout }, async () => {
    await inDirectory(async (directory, programs) => {
      const allowed = [
        "run",
        "--allow-all",
        "--unstable-net",
        "--no-check",
        "--config",
        `${root}deno.json`,
      ];
      const stock = startProgram([deno, ...allowed, `${root}test/interop/stock-peer.ts`]);
      programs.push(stock);
      const { quic, tcp } = JSON.parse(await stock.line()) as StockPeer;
      const addr = { quic: `127.0.0.1:${quic}`, tcp: `127.0.0.1:${tcp}` };
      const content = Buffer.concat(
        Array.from({ length: STOCK_PIECES }, (_, number) => stockPiece(number)),
      );
      const options = {
        contentLength: content.length,
        pieceLength: STOCK_PIECE_LENGTH,
        quicPeers: "known",
      } as const;
      const fetcher = await startFetcher(programs, directory, "auto", addr, options);
      const { chosen } = await assertFetches(fetcher, directory, content);
      assert.deepEqual(
        chosen.map(({ protocol }) => protocol),
        ["tcp"],
      );
      stock.end();
      assert.equal((await stock.ended).code, 0, "the peer kept running");
    });
  });
});

describe("a network that drops all UDP", () => {
  const reason = filterGap();
  const filtered = (name: string, run: () => Promise<void>): void => {
    if (reason === undefined) it(name, { timeout }, run);
    else skipped(name, reason, run);
  };

  filtered("costs auto one protocol choice, not one for each piece", async () => {
    await betweenHosts(async ({ near, far, farHost, drop }) => {
      await inDirectory(async (directory, programs) => {
        const { addr } = await startPeer(
          programs,
          { quic: 0, tcp: 0 },
          { prefix: far, host: farHost },
        );
        drop();
        const fetcher = await startFetcher(programs, directory, "auto", addr, {
          prefix: near,
          delay: 250,
        });
        const { chosen } = await assertFetches(fetcher, directory);
        assert.deepEqual(chosen, [
          { addr: addr.tcp, protocol: "tcp", reason: "quic had not answered within 250 ms" },
        ]);
        assert.deepEqual((await assertFetches(fetcher, directory)).chosen, []);
      });
    });
  });

  filtered("in the middle of a hybrid download loses no piece", async () => {
    await betweenHosts(async ({ near, far, farHost, drop }) => {
      await inDirectory(async (directory, programs) => {
        const slow = { prefix: far, host: farHost, uploadRateLimit: 2_000_000 };
        const { addr } = await startPeer(programs, { quic: 0, tcp: 0 }, slow);
        const fetcher = await startFetcher(programs, directory, "hybrid", addr, { prefix: near });
        const path = join(directory, "hybrid");
        fetcher.send(path);
        for (let pieces = 0; pieces < 6; pieces++) assert.equal(await fetcher.line(), "piece");
        drop();
        const { error, parents } = await outcomeOf(fetcher);
        assert.equal(error, undefined);
        assert.deepEqual(new Uint8Array(await readFile(path)), seededBytes(seed, contentLength));
        const quic = parents[0]?.routes?.find(({ protocol }) => protocol === "quic");
        assert.ok(quic !== undefined && quic.bytes > 0, JSON.stringify(parents));
      });
    });
  });
});

async function inDirectory(
  run: (directory: string, programs: Program[]) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
  const programs: Program[] = [];
  try {
    await run(directory, programs);
  } finally {
    for (const program of programs) program.kill();
    await Promise.all(programs.map(({ ended }) => ended));
    await rm(directory, { recursive: true, force: true });
  }
}

async function end(programs: readonly Program[], index: number): Promise<void> {
  programs[index]?.kill();
  await programs[index]?.ended;
}

interface PeerOptions {
  readonly prefix?: Prefix;
  readonly host?: string;
  readonly uploadRateLimit?: number;
}

async function startPeer(
  programs: Program[],
  ports: AutoPeerOptions["ports"],
  { prefix = [], ...others }: PeerOptions = {},
): Promise<{ readonly addr: PeerAddresses }> {
  const options: AutoPeerOptions = {
    ...{ taskId, seed, contentLength, pieceLength, ports },
    ...others,
  };
  const program = startProgram([
    ...prefix,
    ...runner,
    `${root}test/support/auto-peer.ts`,
    JSON.stringify(options),
  ]);
  programs.push(program);
  return { addr: JSON.parse(await program.line()) as PeerAddresses };
}

interface FetcherOptions {
  readonly prefix?: Prefix;
  readonly contentLength?: number;
  readonly pieceLength?: number;
  readonly delay?: number;
  readonly quicPeers?: "known" | "any";
}

async function startFetcher(
  programs: Program[],
  directory: string,
  protocol: ProtocolChoice,
  addr: PeerAddresses,
  // On a busy machine, a handshake may take longer than the default delay.
  { prefix = [], delay = 10_000, quicPeers = "any", ...lengths }: FetcherOptions = {},
): Promise<Program> {
  const config = join(directory, "dfdaemon.yaml");
  await writeFile(
    config,
    `download:\n  protocol: ${protocol}\nvortexPeer:\n  quic:\n    verify: false\n`,
  );
  const options: AutoFetchOptions = {
    config,
    addr,
    taskId,
    contentLength,
    pieceLength,
    delay,
    quicPeers,
    ...lengths,
  };
  const program = startProgram([
    ...prefix,
    ...trusting,
    `${root}test/support/auto-fetch.ts`,
    JSON.stringify(options),
  ]);
  programs.push(program);
  return program;
}

async function outcomeOf(fetcher: Program): Promise<AutoFetchResult> {
  for (;;) {
    const line = await fetcher.line();
    if (line.startsWith("{")) return JSON.parse(line) as AutoFetchResult;
  }
}

let files = 0;

async function assertFetches(
  fetcher: Program,
  directory: string,
  content: Uint8Array = seededBytes(seed, contentLength),
): Promise<AutoFetchResult> {
  const path = join(directory, `file-${files++}`);
  fetcher.send(path);
  const fetched = await outcomeOf(fetcher);
  assert.equal(fetched.error, undefined);
  assert.equal(Buffer.compare(await readFile(path), content), 0);
  return fetched;
}

/** Returns the reason why UDP cannot be filtered on this machine; undefined if it can. */
function filterGap(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    return "network namespaces need Linux, and root";
  return spawnSync("ip", ["-V"]).status === 0 ? undefined : "the ip command of iproute2 is missing";
}

/** Two hosts, and a switch that drops all UDP between them. */
interface Hosts {
  readonly near: Prefix;
  readonly far: Prefix;
  readonly farHost: string;
  drop(): void;
}

/**
 * Calls `run` with two network namespaces. A routing policy of the far one drops packets silently.
 * Unlike packet filters, every kernel with namespaces has routing policies.
 */
async function betweenHosts(run: (hosts: Hosts) => Promise<void>): Promise<void> {
  const [near, far] = [`vortex-near-${process.pid}`, `vortex-far-${process.pid}`];
  const [nearHost, farHost] = ["198.18.0.1", "198.18.0.2"];
  const ip = (line: string): void => void execFileSync("ip", line.split(" "));
  ip(`netns add ${near}`);
  ip(`netns add ${far}`);
  try {
    ip(`link add near netns ${near} type veth peer name far netns ${far}`);
    ip(`-n ${near} addr add ${nearHost}/30 dev near`);
    ip(`-n ${far} addr add ${farHost}/30 dev far`);
    for (const [name, device] of [[near, "near"] as const, [far, "far"] as const]) {
      ip(`-n ${name} link set lo up`);
      ip(`-n ${name} link set ${device} up`);
    }
    // Apply policies before the table of local addresses, and to datagrams for connected sockets
    // too.
    ip(`-n ${far} rule add pref 100 lookup local`);
    ip(`-n ${far} rule del pref 0`);
    ip(`netns exec ${far} sysctl -qw net.ipv4.udp_early_demux=0`);
    await run({
      near: ["ip", "netns", "exec", near],
      far: ["ip", "netns", "exec", far],
      farHost,
      drop: () => ip(`-n ${far} rule add pref 10 iif far ipproto udp blackhole`),
    });
  } finally {
    ip(`netns del ${near}`);
    ip(`netns del ${far}`);
  }
}
