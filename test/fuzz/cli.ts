/** Properties of the command line: what is meant is asked for, what is wrong is told by its option, and any words have a documented end. */
import assert from "node:assert/strict";
import { hostname } from "node:os";
import fc from "fast-check";
import type { CliFace } from "../../cli/face.ts";
import { parent, parseOptions, taskRange } from "../../cli/values.ts";
import type { CreateDownloaderOptions } from "../../src/client/factory.ts";
import { VortexError } from "../../src/errors.ts";
import { run } from "../support/cli.ts";

/** One option as somebody means it. */
interface Meant {
  readonly option: string;
  readonly text: string;
  /** What becomes of it: an option of the downloader, or a part of the request. */
  readonly options?: Readonly<Record<string, unknown>>;
  readonly request?: Readonly<Record<string, unknown>>;
  /** What may not stand there. */
  readonly wrong: string;
}

const taskId = "ab".repeat(32);
const DAY = 86_400_000;
const duration = fc.oneof(
  fc.integer({ min: 1, max: 9000 }).map((value) => [`${value}ms`, value] as const),
  fc
    .tuple(fc.nat({ max: 99 }), fc.integer({ min: 1, max: 59 }))
    .map(([m, s]) => [`${m}m${s}s`, 60_000 * m + 1000 * s] as const),
  fc.constant(["30d", 30 * DAY] as const),
);
const size = fc
  .tuple(
    fc.integer({ min: 1, max: 900 }),
    fc.constantFrom(["", 1], ["kB", 1000], ["MiB", 1024 ** 2], ["GB", 1e9]),
  )
  .map(([amount, [unit, bytes]]) => [`${amount}${unit}`, amount * Number(bytes)] as const);
const range = fc
  .tuple(fc.nat({ max: 9999 }), fc.nat({ max: 9999 }))
  .map((ends) => ends.sort((a, b) => a - b));
const address = fc
  .tuple(
    fc.oneof(fc.ipV4(), fc.constantFrom("peer.example", "[::1]")),
    fc.integer({ min: 1, max: 65_535 }),
  )
  .map(([host, port]) => `${host}:${port}`);

/** Options that stand for an option of the downloader. */
const forDownloader = (
  option: string,
  name: string,
  values: fc.Arbitrary<readonly [string, unknown]>,
  ...wrong: string[]
) =>
  fc
    .tuple(values, fc.constantFrom(...wrong))
    .map(
      ([[text, value], bad]): Meant => ({ option, text, options: { [name]: value }, wrong: bad }),
    );
const forRequest = (
  option: string,
  name: string,
  values: fc.Arbitrary<readonly [string, unknown]>,
  ...wrong: string[]
) =>
  fc
    .tuple(values, fc.constantFrom(...wrong))
    .map(
      ([[text, value], bad]): Meant => ({ option, text, request: { [name]: value }, wrong: bad }),
    );
const same = <T extends string>(...values: T[]) =>
  fc.constantFrom(...values).map((value) => [value, value] as const);

const noDuration = ["0s", "31d", "5", "1m oops", "-1s"];
const anyFetch = [
  forDownloader(
    "--protocol",
    "protocol",
    same("tcp", "quic", "grpc", "auto", "hybrid"),
    "udp",
    "QUIC",
  ),
  forDownloader("--connect-timeout", "connectTimeout", duration, ...noDuration),
  forDownloader("--piece-timeout", "pieceTimeout", duration, ...noDuration),
  forDownloader(
    "--stall-timeout",
    "stallTimeout",
    fc.constantFrom(["24h", DAY] as const, ["1ms", 1] as const),
    ...noDuration,
  ),
  forRequest(
    "--kind",
    "kind",
    same("standard", "persistent", "persistent-cache", "cache"),
    "other",
    "Standard",
  ),
];
const task = forRequest(
  "--task-id",
  "taskId",
  same(taskId, "x".repeat(64)),
  "ab",
  "ab ".repeat(21),
  "é".repeat(64),
);
const number = (least: number, greatest: number) =>
  fc
    .oneof(fc.constantFrom(least, greatest), fc.integer({ min: least, max: greatest }))
    .map((n) => [String(n), n] as const);

const ofPiece: readonly fc.Arbitrary<Meant>[] = [
  task,
  forRequest("--number", "number", number(0, 0xffffffff), "-1", "4294967296", "1.5", "0x1", "one"),
  forRequest(
    "--peer",
    "addr",
    address.map((text) => [text, text] as const),
    "10.0.0.7",
    "10.0.0.7:0",
    "a:65536",
    "tcp=a:1,api=a:2",
  ),
];
const pieceRange = range.map(
  ([first = 0, last = 0]) => [`${first}-${last}`, { start: first, end: last + 1 }] as const,
);
const morePiece = [...anyFetch, forRequest("--range", "range", pieceRange, "9-1", "5", "a-b")];

const ofGet: readonly fc.Arbitrary<Meant>[] = [
  task,
  forRequest(
    "--peer",
    "parents",
    address.map((addr) => [addr, [{ addr }]] as const),
    "10.0.0.7",
    "quic=a",
    "a:1,tcp=b:2",
  ),
  // Long enough for every range.
  forRequest(
    "--content-length",
    "contentLength",
    size.map(([, bytes]) => [`${bytes + 9999}`, bytes + 9999]),
    "-1",
    "5XB",
  ),
];
const moreGet = [
  ...anyFetch,
  forRequest(
    "--piece-length",
    "pieceLength",
    fc.constantFrom(["1kB", 1000] as const, ["4MiB", 4 * 1024 ** 2] as const),
    "0",
    "x",
  ),
  forRequest("--range", "range", pieceRange, "9-1", "5", "a-b"),
  forDownloader(
    "--patience",
    "patience",
    fc.constantFrom(["0", 0] as const, ["24h", DAY] as const, ["1ms", 1] as const),
    ...["5", "2d", "1m oops", "-1s"],
  ),
  forDownloader("--concurrency", "concurrentPieceCount", number(1, 1024), "0", "1025", "x"),
  forDownloader(
    "--limit",
    "rateLimit",
    size.map(([text, bytes]) => [`${text}/s`, bytes]),
    "0",
    "fast",
    "5MB/h",
  ),
];

/** A command with what it cannot be without, and some of what it can. */
interface Command {
  readonly name: string;
  readonly meant: readonly Meant[];
  /** Which of them is spoilt, in another run. */
  readonly spoilt: number;
  /** Whether each is written with `=`. */
  readonly joined: readonly boolean[];
}

const command: fc.Arbitrary<Command> = fc
  .constantFrom(["piece", ofPiece, morePiece] as const, ["get", ofGet, moreGet] as const)
  .chain(([name, needed, more]) =>
    fc.shuffledSubarray([...more]).chain((chosen) =>
      fc.record({
        name: fc.constant(name),
        meant: fc
          .tuple(...needed, ...chosen)
          .chain((all) => fc.shuffledSubarray(all, { minLength: all.length })),
        spoilt: fc.nat(),
        joined: fc.array(fc.boolean(), { minLength: 20, maxLength: 20 }),
      }),
    ),
  );

/** What a downloader is made with where nothing says otherwise (`vortex-peer get --help`). */
const usual = {
  protocol: "tcp",
  connectTimeout: 2000,
  pieceTimeout: 360_000,
  stallTimeout: 30_000,
  patience: 60_000,
  concurrentPieceCount: 8,
};

const words = fc.constantFrom(
  ...["piece", "get", "stat", "id", "config", "help", "task", "host", "peer"],
  ...[
    "--peer",
    "10.0.0.7:4005",
    "quic=a:1,tcp=b:2",
    "--task-id",
    taskId,
    "--number",
    "0",
    "-1",
    "4294967296",
  ],
  ...[
    "--protocol",
    "tcp",
    "quic",
    "--range",
    "0-499",
    "9-1",
    "--content-length",
    "--piece-length",
    "1kB",
    "--limit",
  ],
  ...[
    "--digest",
    "crc32:1",
    "--json",
    "--debug",
    "--help",
    "-h",
    "--version",
    "--",
    "-",
    "=",
    "-o-",
    "--set",
  ],
);
// `serve` is left out, since it makes a certificate, and so is a path for `-o`: the words come from nobody who means them.
const anyWords: fc.Arbitrary<string[]> = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: words },
    {
      weight: 1,
      arbitrary: fc.string({ unit: "binary", maxLength: 20 }).filter((word) => !/^-+o/.test(word)),
    },
  ),
  { maxLength: 9 },
);

const peers = fc.record(
  {
    quic: fc.nat({ max: 9 }),
    tcp: fc.nat({ max: 9 }),
    grpc: fc.nat({ max: 9 }),
    api: fc.nat({ max: 9 }),
  },
  { requiredKeys: [] },
);

/** What is meant is asked for, and nothing when it is spoilt; ranges and peers are read as they are written; any words have an end. */
export const cli: fc.IAsyncProperty<
  [Command, string[], number, number, Partial<Record<string, number>>]
> = fc.asyncProperty(
  command,
  anyWords,
  fc.nat({ max: 99 }),
  fc.nat({ max: 99 }),
  peers,
  async (meaning, args, first, last, ports) => {
    await asksFor(meaning);
    await isRefused(meaning);
    readsRanges(first, last);
    readsPeers(ports);
    const { code, err, out } = await run(new Recorder(), args, { stdin: "" });
    assert.ok([0, 2, 3, 4, 5, 6, 7].includes(code), `exit code ${code}: ${err}`);
    assert.equal(err.includes("Internal:"), false, err);
    // With --json the failure is an object on the standard output.
    if (code !== 0) assert.notEqual(err + out.text, "");
  },
);

async function asksFor({ name, meant, joined }: Command): Promise<void> {
  const args = [
    name,
    ...meant.flatMap(({ option, text }, at) => written(option, text, joined[at])),
  ];
  const face = new Recorder();
  const { code, err } = await run(face, args, { stdin: "" });
  // The peer does not have it.
  assert.equal(code, 3, `${args.join(" ")}: ${err}`);
  const options = Object.assign({ ...usual }, ...meant.map(({ options }) => options));
  for (const [key, value] of Object.entries(options))
    assert.deepEqual(face.made?.[key as keyof object], value, key);
  assert.equal(face.made?.rateLimit, options.rateLimit);
  const request = Object.assign(
    { kind: "standard", hostId: hostname() },
    ...meant.map(({ request }) => request),
  );
  assert.deepEqual(face.asked, request);
}

async function isRefused({ name, meant, spoilt, joined }: Command): Promise<void> {
  const bad = spoilt % meant.length;
  const args = meant.flatMap(({ option, text, wrong }, at) =>
    written(option, at === bad ? wrong : text, joined[at] || at === bad),
  );
  const face = new Recorder();
  const { code, err } = await run(face, [name, ...args], { stdin: "" });
  assert.equal(code, 2, `${args.join(" ")}: ${err}`);
  assert.ok(err.includes(meant[bad]?.option ?? ""), err);
  assert.equal(face.asked, undefined);
}

function readsRanges(first: number, last: number): void {
  const read = (text: string): unknown => orInvalidArgument(() => parseOptions(taskRange, text));
  assert.deepEqual(
    read(`${first}-${last}`),
    last < first ? undefined : { start: first, end: last + 1 },
  );
  assert.deepEqual(read(`${first}-`), { start: first });
  assert.deepEqual(read(`-${last}`), { fromEnd: last });
}

function readsPeers(ports: Partial<Record<string, number>>): void {
  const addresses = Object.entries(ports).map(
    ([name, port]) => [name, `10.0.0.7:${1 + (port ?? 0)}`] as const,
  );
  const text = addresses.map((pair) => pair.join("=")).join(",");
  if (text === "") return;
  const { api, ...addr } = Object.fromEntries(addresses);
  const read = (each: string): unknown => orInvalidArgument(() => parseOptions(parent, each));
  const several = Object.keys(addr).length > 0;
  assert.deepEqual(read(text), {
    ...(several && { addr }),
    ...(api !== undefined && { apiAddr: api }),
  });
  assert.equal(read(`${text},${text}`), undefined);
  assert.deepEqual(read(`a:1,${text}`), several ? undefined : { addr: "a:1", apiAddr: api });
}

/** An option and its value, as one word or two. */
function written(option: string, text: string, joined: boolean | undefined): string[] {
  return joined ? [`${option}=${text}`] : [option, text];
}

/** A network where nothing is found; notes what is asked of it. */
class Recorder implements CliFace {
  made: CreateDownloaderOptions | undefined;
  asked: unknown;

  createDownloader(options: CreateDownloaderOptions): ReturnType<CliFace["createDownloader"]> {
    this.made = options;
    const ask = (request: unknown): never => {
      this.asked = request;
      return missing();
    };
    return {
      downloadPiece: async (request) => ask(request),
      downloadTask: ask,
      streamTask: ask,
      [Symbol.asyncDispose]: async () => {},
    };
  }

  startServer = missing;

  createDirectory = missing;
}

function missing(): never {
  throw new VortexError("NotFound", "there is nothing here");
}

function orInvalidArgument<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
    return undefined;
  }
}
