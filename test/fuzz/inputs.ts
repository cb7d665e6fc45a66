/** Fuzz properties of addresses and of task layouts. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { VortexError } from "../../src/errors.ts";
import { TaskLayout } from "../../src/task/layout.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";

const ports = fc.oneof(fc.constantFrom(0, 65_535, 65_536), fc.nat({ max: 70_000 }));

/**
 * Property: a formatted address parses to its host and port. Any other text fails with
 * `InvalidArgument`, or parses to an address that survives formatting.
 */
export const address: fc.IProperty<[string, string, number]> = fc.property(
  fc.oneof(
    fc.string({ unit: "binary" }),
    fc.stringMatching(/^\[?[0-9a-f:.%]{0,20}\]?:?[0-9]{0,6}$/),
    fc
      .tuple(fc.oneof(fc.ipV4(), fc.domain()), fc.nat({ max: 70_000 }))
      .map(([host, port]) => `${host}:${port}`),
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

/** Property: the parts of a range of a task cover each byte of the range once, in order. */
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
    const [start, end] = [from % (contentLength + 1), to % (contentLength + 1)].sort(
      (a, b) => a - b,
    ) as [number, number];
    const task = { taskId: "ab".repeat(32), kind: "standard" as const, range: { start, end } };
    const known = even
      ? { contentLength, pieceLength: lengths[0] ?? 1 }
      : { pieces, contentLength };
    const layout = TaskLayout.known(task, known);
    assert.ok(layout !== undefined);
    assert.equal(layout.isWhole, end - start === contentLength);
    if (!even)
      assert.throws(
        () => TaskLayout.known(task, { pieces, contentLength: contentLength + 1 }),
        invalid,
      );
    if (layout.pieceLength !== undefined) {
      const first = layout.pieceLength;
      // Only the last piece may be shorter.
      for (const [at, { length }] of pieces.entries()) {
        assert.ok(
          at === pieces.length - 1 ? length <= first : length === first,
          `piece ${at} of ${length} bytes`,
        );
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
