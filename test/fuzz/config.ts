/**
 * Fuzz properties of the configuration. Valid values parse to the expected settings in any file
 * style, and invalid values are reported with their line.
 */
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

/** Value as written in a file, and its expected parsed form. */
interface ConfigValue {
  readonly text: unknown;
  readonly parsed: unknown;
}

/** Generators of valid and invalid values for a key. */
interface ValueKind {
  readonly valid: fc.Arbitrary<ConfigValue>;
  readonly invalid: fc.Arbitrary<unknown>;
}

const DAY = 86_400_000;
/** Time units of stock Dragonfly (the humantime crate), in ms. */
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
/** Size units of stock Dragonfly (the bytesize crate), in bytes. */
const sizes = {
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
const bandwidth: ValueKind = {
  valid: fc.oneof(
    amount(sizes).map(([number, unit]) => ({
      text: `${number}${unit}`,
      parsed: number * sizes[unit],
    })),
    fc.constant({ text: "1.5 kB", parsed: 1500 }),
    fc.constantFrom({ text: 5, parsed: 5 }, { text: "5", parsed: 5 }),
  ),
  invalid: fc.constantFrom<unknown>(
    0,
    "0",
    "0B",
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

/** Kind and bounds of every key, as documented at `Config`. */
const valueKinds: Readonly<Record<ConfigKey, ValueKind>> = {
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
  "network.enableIPv6": flag,
  "vortexPeer.connectTimeout": duration(30),
  "vortexPeer.stallTimeout": duration(1),
  "vortexPeer.patience": optionalDuration(),
  "vortexPeer.unverifiedPieces": plain(fc.constantFrom("accept", "refuse"), "Accept", "any", true),
  "vortexPeer.requestTimeout": duration(1),
  "vortexPeer.parentConcurrency": limit,
  "vortexPeer.maxConnections": limit,
  "vortexPeer.maxStreams": limit,
  "vortexPeer.idVersion": plain(fc.constantFrom("1.5.2", "1.5.3"), "1.5.10", 1.5, "", "1.5"),
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
const names = Object.keys(valueKinds) as ConfigKey[];
/** Former paths of keys, which the parser still accepts. */
const formerPaths: Partial<Record<ConfigKey, string>> = {
  "download.protocol": "storage.server.protocol",
  "download.bandwidthLimit": "download.rateLimit",
  "upload.bandwidthLimit": "upload.rateLimit",
};

/** One key of a configuration file. */
interface Entry {
  readonly key: ConfigKey;
  /** Path in the file: the key's own or a former one, in camel or snake case. */
  readonly path: readonly string[];
  readonly value: ConfigValue;
  /** Invalid value to write instead, which the parser must refuse. */
  readonly invalidText: unknown;
}

const entry = (key: ConfigKey): fc.Arbitrary<Entry> =>
  fc
    .tuple(valueKinds[key].valid, valueKinds[key].invalid, fc.boolean(), fc.nat({ max: 3 }))
    .map(([value, invalidText, snake, former]) => {
      const path = ((former === 0 && formerPaths[key]) || key).split(".");
      return { key, path: snake ? inSnakeCase(path) : path, value, invalidText };
    });

/** Keys of a file, in file order. */
const entries: fc.Arbitrary<readonly Entry[]> = fc
  .shuffledSubarray(names, { maxLength: 12 })
  .chain((chosen) => fc.tuple(...chosen.map(entry)));

/** One key at two paths. The value of `first` takes precedence. */
interface DuplicateKey {
  readonly first: Entry;
  readonly second: Entry;
}

const duplicate: fc.Arbitrary<DuplicateKey> = fc
  .constantFrom(...names)
  .chain((key) => fc.tuple(entry(key), entry(key)))
  .map(([one, other]) => {
    const path = one.key.split(".");
    return {
      first: { ...one, path },
      second: { ...other, path: formerPaths[one.key]?.split(".") ?? inSnakeCase(path) },
    };
  })
  // A key of one word has the same spelling in camel and snake case.
  .filter(({ first, second }) => first.path.join(".") !== second.path.join("."));

/** Layout of a file: flow or block style; blank lines, comments and quotes are applied in turn. */
interface FileStyle {
  readonly flow: boolean;
  readonly decorations: readonly number[];
}

const fileStyle: fc.Arbitrary<FileStyle> = fc.record({
  flow: fc.boolean(),
  decorations: fc.array(fc.nat({ max: 7 }), { minLength: 1, maxLength: 9 }),
});

/** Default configuration. No parsed input may change it. */
const defaults: Config = parseConfig({});

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
/** Keys that reach an object's prototype if assigned without a check. */
const prototypeKeys = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];
const words = fc.constantFrom(
  ...sections,
  ...prototypeKeys,
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
    // From entries, so that `__proto__` becomes an own key, as JSON and YAML parsers create it.
    fc
      .array(fc.tuple(words, tie("tree")), { maxLength: 5 })
      .map((pairs) => Object.fromEntries(pairs)),
  ),
}));

/**
 * Property: keys parse to their values regardless of unknown neighbours. Any other object parses or
 * fails with `InvalidArgument`, and does not change the defaults.
 */
export const config: fc.IProperty<
  [unknown, readonly Entry[], readonly Entry[], readonly DuplicateKey[]]
> = fc.property(
  tree,
  entries,
  entries,
  fc.array(duplicate, { maxLength: 3 }),
  (junk, upper, lower, duplicates) => {
    const found = parseConfig({ ...nested(upper), proxy: junk });
    for (const key of names) assert.deepEqual(valueAt(found, key), expectedValue(key, upper), key);
    // The upper layer takes precedence.
    const layers = [upper, lower].map((each, index) =>
      parseConfigLayer(nested(each), () => `layer ${index}`),
    );
    for (const { key, value, text, source } of resolveConfig(...layers).settings) {
      const from = [upper, lower].findIndex((each) => each.some((entry) => entry.key === key));
      assert.deepEqual(value, expectedValue(key, [...upper, ...lower]), key);
      assert.equal(source, from < 0 ? "default" : `layer ${from}`, key);
      // The text of a setting, written to a file, parses to the same value.
      if (typeof value !== "number") {
        assert.equal(text, textOf(value), key);
      } else {
        assert.match(text ?? "", /^\d+[A-Za-z]*$/, key);
        assert.equal(
          valueAt(
            parseConfig(nested([{ path: key.split("."), text: numberOrText(key, text) }])),
            key,
          ),
          value,
        );
      }
    }
    // Stock Dragonfly's spelling takes precedence over the other, and the newer path over the
    // former.
    for (const { first, second } of duplicates) {
      assert.deepEqual(
        valueAt(parseConfig(nested([second, first])), first.key),
        first.value.parsed,
        first.path.join("."),
      );
    }
    const before = Object.getOwnPropertyNames(Object.prototype).length;
    orInvalidArgument(() => parseConfig(junk));
    assert.equal(Object.getOwnPropertyNames(Object.prototype).length, before);
    assert.deepEqual(parseConfig({}), defaults);
  },
);

/**
 * Property: a file parses to its values, each with its line. Each invalid value is reported with
 * its line. Any other text parses or fails with errors that name their lines.
 */
export const yaml: fc.IAsyncProperty<[readonly Entry[], FileStyle, number[], string]> =
  fc.asyncProperty(
    entries,
    fileStyle,
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
    async (entries, style, invalidAt, junk) => {
      const valid = fileText(entries, style);
      const layer = await parseConfigText(valid.text, "d.yaml", () => {});
      assert.deepEqual(
        [...layer].sort(([a], [b]) => a.localeCompare(b)),
        entries
          .map(({ key, path, value }) => [
            key,
            { value: value.parsed, source: `d.yaml:${valid.lines.get(path.join("."))}` },
          ])
          .sort(([a], [b]) => String(a).localeCompare(String(b))),
        valid.text,
      );

      const invalidEntries = new Set(
        entries.length === 0 ? [] : invalidAt.map((number) => entries[number % entries.length]),
      );
      const stray = { path: ["vortexPeer", "quic", "port"], text: 1 };
      const harmless = { path: ["upload", "quicPort"], text: "none" };
      const changed = entries.map((entry) => ({
        path: entry.path,
        text: invalidEntries.has(entry) ? entry.invalidText : entry.value.text,
      }));
      const invalid = fileText(
        [...changed, harmless, ...(invalidAt.length > 2 ? [stray] : [])],
        style,
      );
      const failure = await failureOf(parseConfigText(invalid.text, "d.yaml", () => {}));
      const reported = (failure?.message.split("\n") ?? []).map((line) =>
        /^d\.yaml:(\d+): ([\w.]+): .*expected /.exec(line),
      );
      const expected = changed
        .filter((_each, index) => invalidEntries.has(entries[index]))
        .map(({ path }) => path.join("."));
      if (invalidAt.length > 2) expected.push(stray.path.join("."));
      assert.deepEqual(
        // A list is reported by its entries.
        reported.map((match) => `${match?.[1]} ${match?.[2]?.replace(/\.\d+$/, "")}`).sort(),
        expected.map((path) => `${invalid.lines.get(path)} ${path}`).sort(),
        invalid.text,
      );

      const broken = await failureOf(parseConfigText(`${valid.text}\n[`, "d.yaml", () => {}));
      assert.match(broken?.message ?? "", /^d\.yaml:\d+: /, valid.text);

      const error = await failureOf(parseConfigText(junk, "d.yaml", () => {}));
      if (error === undefined) return;
      assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
      for (const line of error.message.split("\n")) assert.match(line, /^d\.yaml:\d+: /);
      assert.deepEqual(parseConfig({}), defaults);
    },
  );

// --- values

function plain<T>(valid: fc.Arbitrary<T>, ...invalid: readonly unknown[]): ValueKind {
  return { valid: valid.map(asIs), invalid: fc.constantFrom(...invalid) };
}

function integer(min: number, max: number): ValueKind {
  return plain(
    fc.oneof(fc.constantFrom(min, max), fc.integer({ min, max })),
    ...[min - 1, max + 1, min + 0.5, String(min), true],
  );
}

/** Duration from 1 ms to `maxDays` days. */
function duration(maxDays: number): ValueKind {
  const parts = fc.array(amount(spans), { minLength: 1, maxLength: 3 });
  return {
    valid: fc
      .oneof(
        fc.constantFrom(
          ["1ms", 1] as const,
          [`${maxDays}d`, maxDays * DAY] as const,
          ["1.5s", 1500] as const,
        ),
        fc.tuple(parts, fc.constantFrom("", " ")).map(([all, between]) => {
          const length = all.reduce((sum, [number, unit]) => sum + number * spans[unit], 0);
          return [all.map((part) => part.join("")).join(between), length] as const;
        }),
      )
      .filter(([, length]) => length <= maxDays * DAY)
      .map(([text, parsed]) => ({ text, parsed })),
    invalid: fc.constantFrom<unknown>(
      ...[
        "0s",
        `${maxDays * DAY + 1}ms`,
        "360",
        360,
        "",
        "1m oops",
        "-1s",
        "5 parsecs",
        "1m30",
        true,
      ],
    ),
  };
}

/** Duration up to one day, or 0 for none. */
function optionalDuration(): ValueKind {
  const { valid, invalid } = duration(1);
  const none = fc.constantFrom<ConfigValue>(...[0, "0", "0s"].map((text) => ({ text, parsed: 0 })));
  return { valid: fc.oneof(valid, none), invalid: invalid.filter((value) => value !== "0s") };
}

function amount<Unit extends string>(
  units: Readonly<Record<Unit, number>>,
): fc.Arbitrary<[number, Unit]> {
  return fc.tuple(
    fc.integer({ min: 1, max: 9000 }),
    fc.constantFrom(...(Object.keys(units) as Unit[])),
  );
}

function asIs(value: unknown): ConfigValue {
  return { text: value, parsed: value };
}

/** Converts the last part of a key to snake case, as in Dragonfly's design document. */
function inSnakeCase(path: readonly string[]): readonly string[] {
  const last = path.at(-1) ?? "";
  return [...path.slice(0, -1), last.replace(/([a-z0-9])([A-Z]+)/g, "$1_$2").toLowerCase()];
}

function expectedValue(key: ConfigKey, entries: readonly Entry[]): unknown {
  return entries.find((entry) => entry.key === key)?.value.parsed ?? valueAt(defaults, key);
}

function valueAt(found: Config, key: ConfigKey): unknown {
  return key
    .split(".")
    .reduce<unknown>((section, part) => (section as Record<string, unknown>)[part], found);
}

function textOf(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  return Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
}

/** Converts the text of a setting to a number, except durations and sizes with a unit. */
function numberOrText(key: ConfigKey, text: string | undefined): unknown {
  return /Timeout$|Interval$|patience$|bandwidthLimit$/.test(key) && !/^\d+$/.test(text ?? "")
    ? text
    : Number(text);
}

// --- files

/** Path of a key and its value in the file. */
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

function linesOf(entries: readonly (Entry | Line)[]): readonly Line[] {
  return entries.map((each) =>
    "text" in each ? each : { path: each.path, text: each.value.text },
  );
}

function nested(entries: readonly (Entry | Line)[]): Record<string, unknown> {
  const objectOf = (section: Section): Record<string, unknown> =>
    Object.fromEntries(
      [...section].map(([key, value]) => [
        key,
        value instanceof Map ? objectOf(value) : value.text,
      ]),
    );
  return objectOf(treeOf(linesOf(entries)));
}

/** Returns the text of a file and the line number of each key. */
function fileText(
  entries: readonly (Entry | Line)[],
  { flow, decorations }: FileStyle,
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
    write(treeOf(linesOf(entries)), []);
    return { text: text.join("\n"), lines };
  }
  for (const { path } of entries) lines.set(path.join("."), 2);
  return { text: `# all in one line\n${JSON.stringify(nested(entries))}`, lines };
}

/**
 * Formats a YAML scalar: as JSON, in single quotes, or unquoted if the text has no other meaning.
 * `how` selects the form.
 */
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

// --- results

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
