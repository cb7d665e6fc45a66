/** Properties of what people write: addresses and the command line; and of the layout of a task. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { CliFace } from "../../adapters/cli/face.ts";
import { parent, parseOptions, taskRange } from "../../adapters/cli/values.ts";
import { VortexError } from "../../src/errors.ts";
import { TaskLayout } from "../../src/task/layout.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";
import { failing, run } from "../support/cli.ts";

const ports = fc.oneof(fc.constantFrom(0, 65_535, 65_536), fc.nat({ max: 70_000 }));

/** What is written as an address is read as that; any other text is one that can be written and read again, or `InvalidArgument`. */
export const address: fc.IProperty<[string, string, number]> = fc.property(
  fc.oneof(
    fc.string({ unit: "binary" }),
    fc.stringMatching(/^\[?[0-9a-f:.%]{0,20}\]?:?[0-9]{0,6}$/),
    fc.tuple(fc.oneof(fc.ipV4(), fc.domain()), fc.nat({ max: 70_000 })).map(([host, port]) => `${host}:${port}`),
    fc.tuple(fc.ipV6(), fc.nat({ max: 70_000 })).map(([host, port]) => `[${host}]:${port}`),
  ),
  fc.oneof(fc.ipV4(), fc.domain(), fc.ipV6()),
  ports,
  (text, host, port) => {
    const parsed = orInvalidArgument(() => parseAddress(text));
    if (parsed !== undefined) assert.deepEqual(parseAddress(formatAddress(parsed)), parsed);
    const written = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    assert.deepEqual(
      orInvalidArgument(() => parseAddress(written)),
      port > 65_535 ? undefined : { host, port },
    );
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

const peers = fc.record(
  {
    quic: fc.nat({ max: 9 }),
    tcp: fc.nat({ max: 9 }),
    grpc: fc.nat({ max: 9 }),
    api: fc.nat({ max: 9 }),
  },
  { requiredKeys: [] },
);

/** Any words end with a documented exit code, and never with that of a mistake inside; ranges and peers are read as they are written. */
export const cli: fc.IAsyncProperty<[string[], number, number, Partial<Record<string, number>>]> = fc.asyncProperty(
  fc.array(
    fc.oneof(
      { weight: 6, arbitrary: words },
      { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 20 }).filter((word) => !/^-+o/.test(word)) },
    ),
    { maxLength: 9 },
  ),
  fc.nat({ max: 99 }),
  fc.nat({ max: 99 }),
  peers,
  async (args, first, last, ports) => {
    const range = (text: string): unknown => orInvalidArgument(() => parseOptions(taskRange, text));
    assert.deepEqual(range(`${first}-${last}`), last < first ? undefined : { start: first, end: last + 1 });
    assert.deepEqual(range(`${first}-`), { start: first });
    assert.deepEqual(range(`-${last}`), { fromEnd: last });
    const addresses = Object.entries(ports).map(([name, port]) => [name, `10.0.0.7:${1 + (port ?? 0)}`] as const);
    const written = addresses.map((pair) => pair.join("=")).join(",");
    const { api, ...addr } = Object.fromEntries(addresses);
    const peer = (text: string): unknown => orInvalidArgument(() => parseOptions(parent, text));
    const several = Object.keys(addr).length > 0;
    if (written !== "") {
      assert.deepEqual(peer(written), { ...(several && { addr }), ...(api !== undefined && { apiAddr: api }) });
      assert.equal(peer(`${written},${written}`), undefined);
      assert.deepEqual(peer(`a:1,${written}`), several ? undefined : { addr: "a:1", apiAddr: api });
    }
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
    const known = even ? { contentLength, pieceLength: lengths[0] ?? 1 } : { pieces, contentLength };
    const layout = TaskLayout.known(task, known);
    assert.ok(layout !== undefined);
    assert.equal(layout.whole, end - start === contentLength);
    if (!even) assert.throws(() => TaskLayout.known(task, { pieces, contentLength: contentLength + 1 }), invalid);
    if (layout.pieceLength !== undefined) {
      const first = layout.pieceLength;
      // The last one may be shorter, and no other.
      for (const [at, { length }] of pieces.entries()) {
        assert.ok(at === pieces.length - 1 ? length <= first : length === first, `piece ${at} of ${length} bytes`);
      }
    }
    let position = 0;
    let wanted = 0;
    for (let number = 0; number < layout.pieceCount; number++) {
      const part = layout.part(number);
      if (part === undefined) continue;
      wanted++;
      assert.equal(part.position, position);
      assert.ok(part.length > 0, `part ${number} of ${part.length} bytes`);
      position += part.length;
    }
    assert.equal(position, end - start);
    assert.equal(wanted, layout.wantedCount);
  },
);

const invalid = { code: "InvalidArgument" } as const;

function orInvalidArgument<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    assert.ok(error instanceof VortexError && error.code === "InvalidArgument", String(error));
    return undefined;
  }
}
