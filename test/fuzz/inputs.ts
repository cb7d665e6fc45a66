/** Properties of what people write: addresses, configuration, the command line, and the layout of a task. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { CliFace } from "../../adapters/cli/face.ts";
import { parseConfigText } from "../../adapters/config-file.ts";
import { type Config, parseConfig } from "../../src/config/config.ts";
import { VortexError } from "../../src/errors.ts";
import { TaskLayout } from "../../src/task/layout.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";
import { failing, run } from "../support/cli.ts";

/** Text is an address that can be written and read again, or `InvalidArgument`. */
export const address: fc.IProperty<[string]> = fc.property(
  fc.oneof(
    fc.string({ unit: "binary" }),
    fc.stringMatching(/^\[?[0-9a-f:.%]{0,20}\]?:?[0-9]{0,6}$/),
    fc.tuple(fc.oneof(fc.ipV4(), fc.domain()), fc.nat({ max: 70_000 })).map(([host, port]) => `${host}:${port}`),
    fc.tuple(fc.ipV6(), fc.nat({ max: 70_000 })).map(([host, port]) => `[${host}]:${port}`),
  ),
  (text) => {
    const parsed = orInvalidArgument(() => parseAddress(text));
    if (parsed !== undefined) assert.deepEqual(parseAddress(formatAddress(parsed)), parsed);
  },
);

const sections = ["download", "upload", "storage", "host", "vortexPeer", "server", "client", "quic", "tls"];
const settings = ["protocol", "bandwidthLimit", "pieceTimeout", "port", "ip", "fingerprints", "concurrentPieceCount"];
/** These reach the prototype of an object that takes keys unseen. */
const traps = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];
const keys = fc.constantFrom(...sections, ...settings, ...traps);
const values = fc.oneof(
  fc.constantFrom("quic", "tcp", "50MB", "1m30s", "0", "-1", "9".repeat(400), "1e999", "{}", "[]"),
  fc.string({ unit: "binary" }),
  fc.integer(),
  fc.double(),
  fc.boolean(),
);

const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    values,
    fc.array(tie("tree"), { maxLength: 3 }),
    // By entries, so that `__proto__` is a key of the object's own, as parsers of JSON and YAML make it.
    fc.array(fc.tuple(keys, tie("tree")), { maxLength: 5 }).map((entries) => Object.fromEntries(entries)),
  ),
}));

/** The configuration of nothing, which no input may have changed for others. */
const usual: Config = parseConfig({});

/** An object is a configuration or `InvalidArgument`; objects of others stay as they are. */
export const config: fc.IProperty<[unknown]> = fc.property(tree, (input) => {
  const before = Object.getOwnPropertyNames(Object.prototype).length;
  orInvalidArgument(() => parseConfig(input));
  assert.equal(Object.getOwnPropertyNames(Object.prototype).length, before);
  assert.deepEqual(parseConfig({}), usual);
});

/** Text is a configuration or one `InvalidArgument` with the line of each problem. */
export const yaml: fc.IAsyncProperty<[string]> = fc.asyncProperty(
  fc.oneof(
    fc.string({ unit: "binary" }),
    tree.map((input) => JSON.stringify(input, undefined, 1)),
    fc
      .array(fc.oneof(keys, fc.constantFrom(": ", "\n", "  ", "- ", "{", "}", "[", "&a ", "*a", "<<: ", "!!map ", "|")))
      .map((words) => words.join("")),
  ),
  async (text) => {
    const error = await parseConfigText(text, "d.yaml").then(
      () => undefined,
      (error: unknown) => error,
    );
    if (error === undefined) return;
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
    for (const line of error.message.split("\n")) assert.match(line, /^d\.yaml:\d+: /);
    assert.deepEqual(parseConfig({}), usual);
  },
);

const missing = (): never => {
  throw new VortexError("NotFound", "there is nothing here");
};
/** A network where nothing is found. */
const nowhere: CliFace = { ...failing("NotFound"), startServer: missing, createDirectory: missing };
// `serve` is left out, since it makes a certificate, and so is a path for `-o`: the words come from nobody who means them.
const words = fc.constantFrom(
  ...["piece", "get", "stat", "id", "config", "help", "task", "host", "peer"],
  ...["--peer", "10.0.0.7:4005", "quic=a:1,tcp=b:2", "--task-id", "ab".repeat(32), "--number", "0", "-1", "4294967296"],
  ...["--protocol", "tcp", "quic", "--range", "0-499", "9-1", "--content-length", "--piece-length", "1kB", "--limit"],
  ...["--digest", "crc32:1", "--json", "--debug", "--help", "-h", "--version", "--", "-", "=", "-o-", "--set"],
);

/** Any words end with a documented exit code, and never with that of a mistake inside. */
export const cli: fc.IAsyncProperty<[string[]]> = fc.asyncProperty(
  fc.array(
    fc.oneof(
      { weight: 6, arbitrary: words },
      { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 20 }).filter((word) => !/^-+o/.test(word)) },
    ),
    { maxLength: 9 },
  ),
  async (args) => {
    const { code, err } = await run(nowhere, args, { stdin: "" });
    assert.ok([0, 2, 3, 4, 5, 6, 7].includes(code), `exit code ${code}: ${err}`);
    assert.equal(err.includes("Internal:"), false, err);
    if (code !== 0) assert.notEqual(err, "");
  },
);

/** The parts of any range of any task cover it exactly, each byte once and in order. */
export const layout: fc.IProperty<[number[], number, number, boolean]> = fc.property(
  fc.array(fc.integer({ min: 1, max: 1000 }), { maxLength: 30 }),
  fc.nat(),
  fc.nat(),
  fc.boolean(),
  (lengths, from, to, even) => {
    const cut = even ? lengths.map(() => lengths[0] ?? 1) : lengths;
    let contentLength = 0;
    const pieces = cut.map((length, number) => {
      contentLength += length;
      return { number, offset: contentLength - length, length };
    });
    const [start, end] = [from % (contentLength + 1), to % (contentLength + 1)].sort((a, b) => a - b) as [
      number,
      number,
    ];
    const task = { taskId: "ab".repeat(32), kind: "standard" as const, range: { start, end } };
    const known = even ? { contentLength, pieceLength: lengths[0] ?? 1 } : { pieces };
    const layout = TaskLayout.known(task, known);
    assert.ok(layout !== undefined);
    let position = 0;
    for (let number = 0; number < layout.pieceCount; number++) {
      const part = layout.part(number);
      if (part === undefined) continue;
      assert.equal(part.position, position);
      assert.ok(part.length > 0, `part ${number} of ${part.length} bytes`);
      position += part.length;
    }
    assert.equal(position, end - start);
  },
);

function orInvalidArgument<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
    return undefined;
  }
}
