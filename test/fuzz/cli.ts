/**
 * Fuzz properties of the command line. Valid options reach the downloader, an invalid value is
 * reported with its option, and any arguments end with a documented exit code.
 */
import assert from "node:assert/strict";
import { hostname } from "node:os";
import fc from "fast-check";
import type { Sdk } from "../../cli/sdk.ts";
import { parent, parseOptions, taskRange } from "../../cli/values.ts";
import type { DownloaderOptions } from "../../src/client/factory.ts";
import { VortexError } from "../../src/errors.ts";
import { run } from "../support/cli.ts";

/** Command-line option with a valid value and its expected effect. */
interface OptionCase {
  readonly option: string;
  readonly text: string;
  /** Expected downloader options. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Expected fields of the request. */
  readonly request?: Readonly<Record<string, unknown>>;
  /** Invalid value for the option. */
  readonly invalidText: string;
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
    fc.constantFrom(["B", 1], ["kB", 1000], ["MiB", 1024 ** 2], ["GB", 1e9]),
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

/** Generates cases for a command-line option that sets the downloader option `name`. */
const forDownloader = (
  option: string,
  name: string,
  values: fc.Arbitrary<readonly [string, unknown]>,
  ...invalidTexts: string[]
) =>
  fc.tuple(values, fc.constantFrom(...invalidTexts)).map(
    ([[text, value], invalidText]): OptionCase => ({
      option,
      text,
      options: { [name]: value },
      invalidText,
    }),
  );
/** Generates cases for a command-line option that sets the request field `name`. */
const forRequest = (
  option: string,
  name: string,
  values: fc.Arbitrary<readonly [string, unknown]>,
  ...invalidTexts: string[]
) =>
  fc.tuple(values, fc.constantFrom(...invalidTexts)).map(
    ([[text, value], invalidText]): OptionCase => ({
      option,
      text,
      request: { [name]: value },
      invalidText,
    }),
  );
const unchanged = <T extends string>(...values: T[]) =>
  fc.constantFrom(...values).map((value) => [value, value] as const);

const invalidDurations = ["0s", "31d", "5", "1m oops", "-1s"];
const fetchOptions = [
  forDownloader(
    "--protocol",
    "protocol",
    unchanged("tcp", "quic", "grpc", "auto", "hybrid"),
    "udp",
    "QUIC",
  ),
  forDownloader("--connect-timeout", "connectTimeout", duration, ...invalidDurations),
  forDownloader("--piece-timeout", "pieceTimeout", duration, ...invalidDurations),
  forDownloader(
    "--stall-timeout",
    "stallTimeout",
    fc.constantFrom(["24h", DAY] as const, ["1ms", 1] as const),
    ...invalidDurations,
  ),
  forDownloader(
    "--unverified-pieces",
    "unverifiedPieces",
    unchanged("accept", "refuse"),
    "Accept",
    "any",
  ),
  forRequest(
    "--kind",
    "kind",
    unchanged("standard", "persistent", "persistent-cache", "cache"),
    "other",
    "Standard",
  ),
];
const task = forRequest(
  "--task-id",
  "taskId",
  unchanged(taskId, "x".repeat(64)),
  "ab",
  "ab ".repeat(21),
  "é".repeat(64),
);
const number = (min: number, max: number) =>
  fc.oneof(fc.constantFrom(min, max), fc.integer({ min, max })).map((n) => [String(n), n] as const);

const requiredForPiece: readonly fc.Arbitrary<OptionCase>[] = [
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
const optionalForPiece = [
  ...fetchOptions,
  forRequest("--range", "range", pieceRange, "9-1", "5", "a-b"),
];

const requiredForGet: readonly fc.Arbitrary<OptionCase>[] = [
  task,
  forRequest(
    "--peer",
    "parents",
    address.map((addr) => [addr, [{ addr }]] as const),
    "10.0.0.7",
    "quic=a",
    "a:1,tcp=b:2",
  ),
  // At least 9999 bytes, so that every generated range is inside the content.
  forRequest(
    "--content-length",
    "contentLength",
    size.map(([, bytes]) => [`${bytes + 9999}`, bytes + 9999]),
    "-1",
    "5XB",
  ),
];
const optionalForGet = [
  ...fetchOptions,
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
    "20",
    "fast",
    "5MB/h",
  ),
];

/** Command with its required options and some of its optional ones. */
interface Command {
  readonly name: string;
  readonly cases: readonly OptionCase[];
  /** Selects the option that gets its invalid value in the second run, modulo their number. */
  readonly invalidIndex: number;
  /** For each option: written as `--option=value` instead of two words. */
  readonly withEquals: readonly boolean[];
}

const command: fc.Arbitrary<Command> = fc
  .constantFrom(
    ["piece", requiredForPiece, optionalForPiece] as const,
    ["get", requiredForGet, optionalForGet] as const,
  )
  .chain(([name, needed, more]) =>
    fc.shuffledSubarray([...more]).chain((chosen) =>
      fc.record({
        name: fc.constant(name),
        cases: fc
          .tuple(...needed, ...chosen)
          .chain((all) => fc.shuffledSubarray(all, { minLength: all.length })),
        invalidIndex: fc.nat(),
        withEquals: fc.array(fc.boolean(), { minLength: 20, maxLength: 20 }),
      }),
    ),
  );

/** Default downloader options (`vortex-peer get --help`). */
const defaults = {
  protocol: "tcp",
  connectTimeout: 2000,
  pieceTimeout: 360_000,
  stallTimeout: 30_000,
  patience: 60_000,
  unverifiedPieces: "accept",
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
// Without `serve`, which creates a certificate, and without a path for `-o`, which would write a
// file.
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

/**
 * Property: valid options produce the expected request, and an invalid one produces no request.
 * Ranges and peers parse as written. Arbitrary arguments end with a documented exit code.
 */
export const cli: fc.IAsyncProperty<
  [Command, string[], number, number, Partial<Record<string, number>>]
> = fc.asyncProperty(
  command,
  anyWords,
  fc.nat({ max: 99 }),
  fc.nat({ max: 99 }),
  peers,
  async (command, args, first, last, ports) => {
    await checkRequest(command);
    await checkRefusal(command);
    checkRanges(first, last);
    checkPeers(ports);
    const { code, err, out } = await run(new RecordingSdk(), args, { stdin: "" });
    assert.ok([0, 2, 3, 4, 5, 6, 7].includes(code), `exit code ${code}: ${err}`);
    assert.equal(err.includes("Internal:"), false, err);
    // With --json, the failure is an object on standard output.
    if (code !== 0) assert.notEqual(err + out.text, "");
  },
);

async function checkRequest({ name, cases, withEquals }: Command): Promise<void> {
  const args = [
    name,
    ...cases.flatMap(({ option, text }, at) => optionWords(option, text, withEquals[at])),
  ];
  const sdk = new RecordingSdk();
  const { code, err } = await run(sdk, args, { stdin: "" });
  // Exit code 3 is NotFound: RecordingSdk has no task.
  assert.equal(code, 3, `${args.join(" ")}: ${err}`);
  const options = Object.assign({ ...defaults }, ...cases.map(({ options }) => options));
  for (const [key, value] of Object.entries(options))
    assert.deepEqual(sdk.made?.[key as keyof object], value, key);
  assert.equal(sdk.made?.rateLimit, options.rateLimit);
  const request = Object.assign(
    { kind: "standard", hostId: hostname() },
    ...cases.map(({ request }) => request),
  );
  assert.deepEqual(sdk.asked, request);
}

async function checkRefusal({ name, cases, invalidIndex, withEquals }: Command): Promise<void> {
  const invalidAt = invalidIndex % cases.length;
  const args = cases.flatMap(({ option, text, invalidText }, at) =>
    optionWords(option, at === invalidAt ? invalidText : text, withEquals[at] || at === invalidAt),
  );
  const sdk = new RecordingSdk();
  const { code, err } = await run(sdk, [name, ...args], { stdin: "" });
  assert.equal(code, 2, `${args.join(" ")}: ${err}`);
  assert.ok(err.includes(cases[invalidAt]?.option ?? ""), err);
  assert.equal(sdk.asked, undefined);
}

function checkRanges(first: number, last: number): void {
  const read = (text: string): unknown => orInvalidArgument(() => parseOptions(taskRange, text));
  assert.deepEqual(
    read(`${first}-${last}`),
    last < first ? undefined : { start: first, end: last + 1 },
  );
  assert.deepEqual(read(`${first}-`), { start: first });
  assert.deepEqual(read(`-${last}`), { fromEnd: last });
}

function checkPeers(ports: Partial<Record<string, number>>): void {
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

/** Returns an option and its value as `--option=value` or as two words. */
function optionWords(option: string, text: string, withEquals: boolean | undefined): string[] {
  return withEquals ? [`${option}=${text}`] : [option, text];
}

/** Records the downloader options and the request. Every request fails with `NotFound`. */
class RecordingSdk implements Sdk {
  made: DownloaderOptions | undefined;
  asked: unknown;

  createDownloader(options: DownloaderOptions): ReturnType<Sdk["createDownloader"]> {
    this.made = options;
    const ask = (options: object): never => {
      const {
        signal,
        to: _to,
        onEvent: _onEvent,
        ...request
      }: Record<string, unknown> = { ...options };
      assert.ok(signal instanceof AbortSignal);
      this.asked = request;
      return notFound();
    };
    return {
      downloadPiece: async (request) => ask(request),
      downloadTask: ask,
      streamTask: ask,
      [Symbol.asyncDispose]: async () => {},
    };
  }

  startServer = notFound;

  createDirectory = notFound;
}

function notFound(): never {
  throw new VortexError("NotFound", "the recording sdk has no tasks");
}

function orInvalidArgument<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
    return undefined;
  }
}
