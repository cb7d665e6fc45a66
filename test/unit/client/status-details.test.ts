import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { originFailure } from "../../../src/client/grpc/status-details.ts";

function parse(details: string) {
  return originFailure(new Headers({ "grpc-status-details-bin": details }));
}

const json = (value: unknown): string => btoa(JSON.stringify(value));
const backend = {
  message: "bad status",
  header: { "Content-Type": "text/html", Server: "nginx" },
  status_code: 404,
};
const parsed = {
  status: 404,
  headers: { "content-type": "text/html", server: "nginx" },
  message: "bad status",
};

describe("originFailure", () => {
  it("parses the details of dfdaemon, with and without padding", () => {
    assert.deepEqual(parse(json(backend)), parsed);
    assert.match(json(backend), /=$/);
    assert.deepEqual(parse(json(backend).replace(/=+$/, "")), parsed);
  });

  it("accepts details without a status or headers", () => {
    const { message } = backend;
    const expected = { status: undefined, headers: {}, message };
    assert.deepEqual(parse(json({ message, header: {}, status_code: null })), expected);
    assert.deepEqual(parse(json({ message })), expected);
  });

  it("returns undefined for details of another form", () => {
    assert.equal(originFailure(new Headers()), undefined);
    for (const value of [
      ...[null, 7, "text", [], {}, { ...backend, message: 7 }, { ...backend, header: [] }],
      ...[99, 1000, 404.5, "404", -1].map((status_code) => ({ ...backend, status_code })),
    ])
      assert.equal(parse(json(value)), undefined, JSON.stringify(value));
    for (const text of ["", "{", "%%%", btoa("{"), btoa("\xff{}"), "CA0SBG9vcHM="])
      assert.equal(parse(text), undefined, text);
  });

  it("bounds and cleans what it keeps", () => {
    const header = Object.fromEntries(
      Array.from({ length: 200 }, (_, index) => [`x-${index}`, "v".repeat(2000)]),
    );
    const failure = parse(json({ ...backend, header: { ...header, odd: 7 }, message: "a\r\nb" }));
    assert.equal(failure, undefined, "over 64 KiB");
    const few = Object.fromEntries(Object.entries(header).map(([name]) => [name, "v"]));
    const kept = parse(json({ message: `a\r\n${"b".repeat(2000)}`, header: { odd: 7, ...few } }));
    assert.equal(Object.keys(kept?.headers ?? {}).length, 64);
    assert.equal(kept?.headers.odd, undefined);
    assert.match(kept?.message ?? "", /^a b{1021}$/);
  });

  it("keeps a header named __proto__ as plain data", () => {
    const details = btoa('{"message":"m","header":{"__proto__":"x"}}');
    const headers = parse(details)?.headers ?? {};
    assert.deepEqual(Object.entries(headers), [["__proto__", "x"]]);
    assert.equal(Object.getPrototypeOf(headers), Object.prototype);
  });
});
