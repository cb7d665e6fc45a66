import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SessionCache } from "../../../src/transport/session-cache.ts";

describe("SessionCache", () => {
  it("returns a session once, and only for its address", () => {
    const cache = new SessionCache();
    cache.put("a:1", Uint8Array.of(1));
    assert.equal(cache.take("a:2"), undefined);
    assert.deepEqual(cache.take("a:1"), Uint8Array.of(1));
    assert.equal(cache.take("a:1"), undefined);
  });

  it("keeps the latest session of an address", () => {
    const cache = new SessionCache();
    cache.put("a:1", Uint8Array.of(1));
    cache.put("a:1", Uint8Array.of(2));
    assert.deepEqual(cache.take("a:1"), Uint8Array.of(2));
  });

  it("evicts the least recently stored sessions beyond its capacity", () => {
    const cache = new SessionCache(2);
    cache.put("a:1", Uint8Array.of(1));
    cache.put("b:1", Uint8Array.of(2));
    cache.put("a:1", Uint8Array.of(3));
    cache.put("c:1", Uint8Array.of(4));
    assert.deepEqual(cache.take("a:1"), Uint8Array.of(3));
    assert.equal(cache.take("b:1"), undefined);
    assert.deepEqual(cache.take("c:1"), Uint8Array.of(4));
  });

  it("ignores sessions that are empty or too large", () => {
    const cache = new SessionCache();
    cache.put("a:1", new Uint8Array(0));
    cache.put("b:1", new Uint8Array(64 * 1024 + 1));
    assert.equal(cache.take("a:1"), undefined);
    assert.equal(cache.take("b:1"), undefined);
  });
});
