/** Properties of configuration: what somebody means, written as a file may have it, is read as that, and what is wrong is told at its line. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { parseConfigText } from "../../adapters/files/config-file.ts";
import {
  type Config,
  parseConfig,
  parseConfigLayer,
  resolveConfig,
} from "../../src/config/config.ts";
import type { ConfigKey } from "../../src/config/keys.ts";
import { VortexError } from "../../src/errors.ts";

/** A value as somebody writes it, and what it says. */
interface Value {
  readonly text: unknown;
  readonly says: unknown;
}

/** What may stand under a key, and what may not. */
interface Kind {
  readonly right: fc.Arbitrary<Value>;
  readonly wrong: fc.Arbitrary<unknown>;
}

const DAY = 86_400_000;
/** Units of time as stock Dragonfly writes them (the humantime crate), in milliseconds. */
const spans = {
  ms: 1,
  s: 1000,
  sec: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  hours: 3_600_000,
  d: DAY,
  week: 7 * DAY,
};
/** Units of size as stock Dragonfly writes them (the bytesize crate), in bytes. */
const sizes = {
  "": 1,
  B: 1,
  kB: 1e3,
  K: 1e3,
  MB: 1e6,
  GB: 1e9,
  KiB: 1024,
  Mi: 1024 ** 2,
  GiB: 1024 ** 3,
  TB: 1e12,
};

const group = fc.nat({ max: 0xffff }).map((value) => value.toString(16));
const ip = plain(
  fc.oneof(
    fc.ipV4(),
    fc.constantFrom("::1", "::", "fe80::1", "2001:db8::8:800:200c:417a", "::ffff:10.0.0.7"),
    fc.array(group, { minLength: 8, maxLength: 8 }).map((groups) => groups.join(":")),
  ),
  ...["10.0.0", "::g", "localhost", "10.0.0.7:80", 5],
);
const name = plain(
  fc.oneof(
    fc.constantFrom("/etc/ca.pem", "a b: c # d", "1.5", "true", "null", "~", "- x", "é"),
    fc.string().filter((text) => /\S/.test(text)),
  ),
  ...["", "  ", 5, true],
);
const limit = integer(1, 1_000_000);
const port = integer(0, 65_535);
const flag = plain(fc.boolean(), "true", "yes", 0, 1);
const flow = integer(16 * 1024, 2 ** 32 - 1);
const bandwidth: Kind = {
  right: fc.oneof(
    fc.integer({ min: 1, max: 2 ** 53 - 1 }).map(itself),
    amount(sizes).map(([number, unit]) => ({
      text: `${number}${unit}`,
      says: number * sizes[unit],
    })),
    fc.constant({ text: "1.5 kB", says: 1500 }),
  ),
  wrong: fc.constantFrom<unknown>(
    0,
    "0",
    -1,
    1.5,
    "5XB",
    "",
    "MB",
    "50MB/s",
    "1e3",
    "9999PB",
    2 ** 53,
    true,
  ),
};
const hex = fc.array(fc.nat({ max: 255 }), { minLength: 32, maxLength: 32 }).map((bytes) => {
  return bytes.map((byte) => byte.toString(16).padStart(2, "0"));
});
const fingerprint = fc
  .tuple(hex, fc.constantFrom("", ":"))
  .map(([bytes, between]) => bytes.join(between));

/** Every key, what it is and where its bounds are, as the documentation of `Config` has it. */
const kinds: Readonly<Record<ConfigKey, Kind>> = {
  "host.ip": ip,
  "host.hostname": name,
  "download.protocol": plain(
    fc.constantFrom("tcp", "quic", "grpc", "auto", "hybrid"),
    "QUIC",
    "udp",
    "",
    4,
  ),
  "download.bandwidthLimit": bandwidth,
  "download.pieceTimeout": duration(30),
  "download.concurrentPieceCount": integer(1, 1024),
  "upload.bandwidthLimit": bandwidth,
  "upload.server.ip": ip,
  "upload.server.port": port,
  "upload.server.caCert": name,
  "upload.server.cert": name,
  "upload.server.key": name,
  "upload.client.caCert": name,
  "upload.client.cert": name,
  "upload.client.key": name,
  "storage.server.ip": ip,
  "storage.server.tcpPort": port,
  "storage.server.quicPort": port,
  "vortexPeer.connectTimeout": duration(30),
  "vortexPeer.stallTimeout": duration(1),
  "vortexPeer.patience": patience(),
  "vortexPeer.requestTimeout": duration(1),
  "vortexPeer.parentConcurrency": limit,
  "vortexPeer.maxConnections": limit,
  "vortexPeer.maxStreams": limit,
  "vortexPeer.pool.connectionsPerAddress": integer(1, 64),
  "vortexPeer.pool.capacity": limit,
  "vortexPeer.pool.idleTimeout": duration(30),
  "vortexPeer.pool.cleanupInterval": duration(30),
  "vortexPeer.quic.earlyData": flag,
  "vortexPeer.quic.caCert": name,
  "vortexPeer.quic.fingerprints": plain(
    fc.array(fingerprint, { minLength: 1, maxLength: 3 }),
    ...[[], "ab", ["zz"], ["ab".repeat(31)], 5],
  ),
  "vortexPeer.quic.verify": flag,
  "vortexPeer.quic.congestionControl": plain(fc.constantFrom("bbr", "cubic"), "BBR", "reno", 1),
  "vortexPeer.quic.udpPayloadSize": integer(1200, 16_383),
  "vortexPeer.quic.streamWindow": flow,
  "vortexPeer.quic.connectionWindow": flow,
  "vortexPeer.quic.socketBuffer": integer(4096, 2 ** 30),
  "vortexPeer.quic.ackThreshold": integer(1, 64),
};
const names = Object.keys(kinds) as ConfigKey[];
/** Where older versions have a key. */
const formerly: Partial<Record<ConfigKey, string>> = {
  "download.protocol": "storage.server.protocol",
  "download.bandwidthLimit": "download.rateLimit",
  "upload.bandwidthLimit": "upload.rateLimit",
};

/** One key of a file. */
interface Entry {
  readonly key: ConfigKey;
  /** Where it stands: under its own name or a former one, spelt in camel or snake case. */
  readonly path: readonly string[];
  readonly value: Value;
  /** What to write in place of the value, to be refused. */
  readonly instead: unknown;
}

const entry = (key: ConfigKey): fc.Arbitrary<Entry> =>
  fc
    .tuple(kinds[key].right, kinds[key].wrong, fc.boolean(), fc.nat({ max: 3 }))
    .map(([value, instead, snake, former]) => {
      const path = ((former === 0 && formerly[key]) || key).split(".");
      return { key, path: snake ? inSnakeCase(path) : path, value, instead };
    });

/** What a file says, in the order in which it does. */
const entries: fc.Arbitrary<readonly Entry[]> = fc
  .shuffledSubarray(names, { maxLength: 12 })
  .chain((chosen) => fc.tuple(...chosen.map(entry)));

/** One key in two places, of which the first counts. */
interface Twice {
  readonly first: Entry;
  readonly second: Entry;
}

const twice: fc.Arbitrary<Twice> = fc
  .constantFrom(...names)
  .chain((key) => fc.tuple(entry(key), entry(key)))
  .map(([one, other]) => {
    const path = one.key.split(".");
    return {
      first: { ...one, path },
      second: { ...other, path: formerly[one.key]?.split(".") ?? inSnakeCase(path) },
    };
  })
  // A name of one word has one spelling.
  .filter(({ first, second }) => first.path.join(".") !== second.path.join("."));

/** How a file is laid out: blank lines, comments and quotes, in turn. */
interface Manner {
  readonly flow: boolean;
  readonly decorations: readonly number[];
}

const manner: fc.Arbitrary<Manner> = fc.record({
  flow: fc.boolean(),
  decorations: fc.array(fc.nat({ max: 7 }), { minLength: 1, maxLength: 9 }),
});

/** The configuration of nothing, which no input may have changed for others. */
const usual: Config = parseConfig({});

const sections = [
  "download",
  "upload",
  "storage",
  "host",
  "vortexPeer",
  "server",
  "client",
  "quic",
  "tls",
];
/** These reach the prototype of an object that takes keys unseen. */
const traps = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];
const words = fc.constantFrom(
  ...sections,
  ...traps,
  "protocol",
  "rateLimit",
  "pieceTimeout",
  "port",
  "fingerprints",
);
const scalars = fc.oneof(
  fc.constantFrom("quic", "50MB", "1m30s", "-1", "9".repeat(400), "1e999", "{}", "[]"),
  fc.string({ unit: "binary" }),
  fc.integer(),
  fc.double(),
  fc.boolean(),
);
const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    scalars,
    fc.array(tie("tree"), { maxLength: 3 }),
    // By entries, so that `__proto__` is a key of the object's own, as parsers of JSON and YAML make it.
    fc
      .array(fc.tuple(words, tie("tree")), { maxLength: 5 })
      .map((pairs) => Object.fromEntries(pairs)),
  ),
}));

/** What is meant is read as that, whatever else is beside it; any object is a configuration or `InvalidArgument`, and changes no other. */
export const config: fc.IProperty<[unknown, readonly Entry[], readonly Entry[], readonly Twice[]]> =
  fc.property(
    tree,
    entries,
    entries,
    fc.array(twice, { maxLength: 3 }),
    (junk, said, below, twice) => {
      const found = parseConfig({ ...nested(said), proxy: junk });
      for (const key of names) assert.deepEqual(at(found, key), meant(key, said), key);
      // The upper layer counts.
      const layers = [said, below].map((each, index) =>
        parseConfigLayer(nested(each), () => `layer ${index}`),
      );
      for (const { key, value, text, source } of resolveConfig(...layers).settings) {
        const from = [said, below].findIndex((each) => each.some((entry) => entry.key === key));
        assert.deepEqual(value, meant(key, [...said, ...below]), key);
        assert.equal(source, from < 0 ? "default" : `layer ${from}`, key);
        // As a file would have it, it says the same again.
        if (typeof value !== "number") {
          assert.equal(text, textOf(value), key);
        } else {
          assert.match(text ?? "", /^\d+[A-Za-z]*$/, key);
          assert.equal(
            at(parseConfig(nested([{ path: key.split("."), text: numberOrText(key, text) }])), key),
            value,
          );
        }
      }
      // Of two spellings stock Dragonfly's counts, and of two places the newer one.
      for (const { first, second } of twice) {
        assert.deepEqual(
          at(parseConfig(nested([second, first])), first.key),
          first.value.says,
          first.path.join("."),
        );
      }
      const before = Object.getOwnPropertyNames(Object.prototype).length;
      orInvalidArgument(() => parseConfig(junk));
      assert.equal(Object.getOwnPropertyNames(Object.prototype).length, before);
      assert.deepEqual(parseConfig({}), usual);
    },
  );

/** A file is what it says, each value with its line; each wrong one is told at its line; any text is a configuration or has such lines. */
export const yaml: fc.IAsyncProperty<[readonly Entry[], Manner, number[], string]> =
  fc.asyncProperty(
    entries,
    manner,
    fc.array(fc.nat(), { maxLength: 3 }),
    fc.oneof(
      fc.string({ unit: "binary" }),
      tree.map((input) => JSON.stringify(input, undefined, 1)),
      fc
        .array(
          fc.oneof(
            words,
            fc.constantFrom(
              ": ",
              "\n",
              "  ",
              "- ",
              "{",
              "}",
              "[",
              "&a ",
              "*a",
              "<<: ",
              "!!map ",
              "|",
            ),
          ),
        )
        .map((parts) => parts.join("")),
    ),
    async (said, how, wrongOnes, junk) => {
      const right = written(said, how);
      const layer = await parseConfigText(right.text, "d.yaml", () => {});
      assert.deepEqual(
        [...layer].sort(([a], [b]) => a.localeCompare(b)),
        said
          .map(({ key, path, value }) => [
            key,
            { value: value.says, source: `d.yaml:${right.lines.get(path.join("."))}` },
          ])
          .sort(([a], [b]) => String(a).localeCompare(String(b))),
        right.text,
      );

      const spoilt = new Set(
        said.length === 0 ? [] : wrongOnes.map((number) => said[number % said.length]),
      );
      const stray = { path: ["vortexPeer", "quic", "port"], text: 1 };
      const harmless = { path: ["upload", "quicPort"], text: "none" };
      const changed = said.map((entry) => ({
        path: entry.path,
        text: spoilt.has(entry) ? entry.instead : entry.value.text,
      }));
      const wrong = written([...changed, harmless, ...(wrongOnes.length > 2 ? [stray] : [])], how);
      const failure = await failureOf(parseConfigText(wrong.text, "d.yaml", () => {}));
      const told = (failure?.message.split("\n") ?? []).map((line) =>
        /^d\.yaml:(\d+): ([\w.]+): .*expected /.exec(line),
      );
      const expected = changed
        .filter((_each, index) => spoilt.has(said[index]))
        .map(({ path }) => path.join("."));
      if (wrongOnes.length > 2) expected.push(stray.path.join("."));
      assert.deepEqual(
        // A list is told by its entries.
        told.map((match) => `${match?.[1]} ${match?.[2]?.replace(/\.\d+$/, "")}`).sort(),
        expected.map((path) => `${wrong.lines.get(path)} ${path}`).sort(),
        wrong.text,
      );

      const broken = await failureOf(parseConfigText(`${right.text}\n[`, "d.yaml", () => {}));
      assert.match(broken?.message ?? "", /^d\.yaml:\d+: /, right.text);

      const error = await failureOf(parseConfigText(junk, "d.yaml", () => {}));
      if (error === undefined) return;
      assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
      for (const line of error.message.split("\n")) assert.match(line, /^d\.yaml:\d+: /);
      assert.deepEqual(parseConfig({}), usual);
    },
  );

// --- values

function plain<T>(right: fc.Arbitrary<T>, ...wrong: readonly unknown[]): Kind {
  return { right: right.map(itself), wrong: fc.constantFrom(...wrong) };
}

function integer(least: number, greatest: number): Kind {
  return plain(
    fc.oneof(fc.constantFrom(least, greatest), fc.integer({ min: least, max: greatest })),
    ...[least - 1, greatest + 1, least + 0.5, String(least), true],
  );
}

/** Up to so many days. */
function duration(days: number): Kind {
  const parts = fc.array(amount(spans), { minLength: 1, maxLength: 3 });
  return {
    right: fc
      .oneof(
        fc.constantFrom(
          ["1ms", 1] as const,
          [`${days}d`, days * DAY] as const,
          ["1.5s", 1500] as const,
        ),
        fc.tuple(parts, fc.constantFrom("", " ")).map(([all, between]) => {
          const length = all.reduce((sum, [number, unit]) => sum + number * spans[unit], 0);
          return [all.map((part) => part.join("")).join(between), length] as const;
        }),
      )
      .filter(([, length]) => length <= days * DAY)
      .map(([text, says]) => ({ text, says })),
    wrong: fc.constantFrom<unknown>(
      ...["0s", `${days * DAY + 1}ms`, "360", 360, "", "1m oops", "-1s", "5 parsecs", "1m30", true],
    ),
  };
}

/** A duration up to a day, or none. */
function patience(): Kind {
  const { right, wrong } = duration(1);
  const none = fc.constantFrom<Value>(...[0, "0", "0s"].map((text) => ({ text, says: 0 })));
  return { right: fc.oneof(right, none), wrong: wrong.filter((value) => value !== "0s") };
}

function amount<Unit extends string>(
  units: Readonly<Record<Unit, number>>,
): fc.Arbitrary<[number, Unit]> {
  return fc.tuple(
    fc.integer({ min: 1, max: 9000 }),
    fc.constantFrom(...(Object.keys(units) as Unit[])),
  );
}

function itself(value: unknown): Value {
  return { text: value, says: value };
}

/** As Dragonfly's design document spells a key. */
function inSnakeCase(path: readonly string[]): readonly string[] {
  const last = path.at(-1) ?? "";
  return [...path.slice(0, -1), last.replace(/[A-Z]/g, (upper) => `_${upper.toLowerCase()}`)];
}

function meant(key: ConfigKey, said: readonly Entry[]): unknown {
  return said.find((entry) => entry.key === key)?.value.says ?? at(usual, key);
}

function at(found: Config, key: ConfigKey): unknown {
  return key
    .split(".")
    .reduce<unknown>((section, part) => (section as Record<string, unknown>)[part], found);
}

function textOf(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  return Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
}

/** A number in a file is one, but for durations and sizes with their unit. */
function numberOrText(key: ConfigKey, text: string | undefined): unknown {
  return /Timeout$|Interval$|patience$|bandwidthLimit$/.test(key) && !/^\d+$/.test(text ?? "")
    ? text
    : Number(text);
}

// --- files

/** A key and what is written there. */
interface Line {
  readonly path: readonly string[];
  readonly text: unknown;
}

interface Section extends Map<string, Section | { readonly text: unknown }> {}

function treeOf(lines: readonly Line[]): Section {
  const root: Section = new Map();
  for (const { path, text } of lines) {
    let section = root;
    for (const part of path.slice(0, -1)) {
      const next = section.get(part);
      const inner = next instanceof Map ? next : (new Map() as Section);
      section.set(part, inner);
      section = inner;
    }
    section.set(path.at(-1) ?? "", { text });
  }
  return root;
}

function linesOf(said: readonly (Entry | Line)[]): readonly Line[] {
  return said.map((each) => ("text" in each ? each : { path: each.path, text: each.value.text }));
}

function nested(said: readonly (Entry | Line)[]): Record<string, unknown> {
  const objectOf = (section: Section): Record<string, unknown> =>
    Object.fromEntries(
      [...section].map(([key, value]) => [
        key,
        value instanceof Map ? objectOf(value) : value.text,
      ]),
    );
  return objectOf(treeOf(linesOf(said)));
}

/** The text of a file, and the line of each key. */
function written(
  said: readonly (Entry | Line)[],
  { flow, decorations }: Manner,
): {
  readonly text: string;
  readonly lines: ReadonlyMap<string, number>;
} {
  const lines = new Map<string, number>();
  const text: string[] = [];
  let turn = 0;
  const decoration = (): number => decorations[turn++ % decorations.length] ?? 0;
  const write = (section: Section, path: readonly string[]): void => {
    for (const [key, value] of section) {
      const how = decoration();
      if (how === 1) text.push("");
      if (how === 2) text.push("  # download: {}");
      const name = [...path, key].join(".");
      const indent = "  ".repeat(path.length);
      const comment = how === 3 ? " # protocol: udp" : "";
      text.push(
        `${indent}${key}:${value instanceof Map ? "" : ` ${scalar(value.text, how)}`}${comment}`,
      );
      lines.set(name, text.length);
      if (value instanceof Map) write(value, [...path, key]);
    }
  };
  if (!flow) {
    write(treeOf(linesOf(said)), []);
    return { text: text.join("\n"), lines };
  }
  for (const { path } of said) lines.set(path.join("."), 2);
  return { text: `# all in one line\n${JSON.stringify(nested(said))}`, lines };
}

/** JSON is YAML; text may have single quotes, or none where it cannot be taken for anything else. */
function scalar(value: unknown, how: number): string {
  if (
    typeof value === "string" &&
    how > 5 &&
    /^[a-z]{3,}$/.test(value) &&
    !/^(true|null)$/.test(value)
  )
    return value;
  if (typeof value === "string" && how > 4 && /^[ -~]*$/.test(value))
    return `'${value.replaceAll("'", "''")}'`;
  return JSON.stringify(value);
}

// --- ends

function failureOf(promise: Promise<unknown>): Promise<Error | undefined> {
  return promise.then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
  );
}

function orInvalidArgument(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
  }
}
