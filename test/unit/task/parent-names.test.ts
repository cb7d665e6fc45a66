import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parentsOf } from "../../../src/task/parents.ts";

describe("parents that name one peer twice", () => {
  for (const [what, ...parents] of [
    ["in the same form", "127.0.0.1:4005", "127.0.0.1:4005"],
    ["in IPv6 forms", "[::1]:4005", "[0:0:0:0:0:0:0:1]:4005"],
    ["as an IPv4-mapped address", "127.0.0.1:4005", "[::ffff:127.0.0.1]:4005"],
    ["as hexadecimal IPv4-mapped address", "127.0.0.1:4005", "[::ffff:7f00:1]:4005"],
    ["in upper case", "peer.example:4005", { addr: "PEER.example:4005" }],
    ["by protocol", { addr: { tcp: "a:4005", quic: "a:4006" } }, { addr: { tcp: "a:4005" } }],
    ["by protocol and as one address", { addr: { tcp: "a:4005", quic: "a:4006" } }, "a:4005"],
    ["by API address", { apiAddr: "[::1]:4000" }, { apiAddr: "[0::1]:4000" }],
  ] as const) {
    it(`${what} are one parent`, () => {
      assert.equal(parentsOf(parents, "no").length, 1);
    });
  }

  it("remain two at different addresses of one host", () => {
    assert.equal(parentsOf(["a:4005", "a:5005"], "same-host").length, 2);
  });
});
