import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { networkOf } from "../../../src/server/admission/network.ts";

describe("networkOf", () => {
  it("returns an IPv4 address, also from its IPv4-mapped form", () => {
    assert.equal(networkOf("10.0.0.1"), "10.0.0.1");
    assert.equal(networkOf("::ffff:10.0.0.1"), "10.0.0.1");
    assert.equal(networkOf("::FFFF:10.0.0.1"), "10.0.0.1");
  });

  it("returns the /64 of an IPv6 address, whatever its notation", () => {
    for (const [address, network] of [
      ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
      ["2001:db8:1:2::1", "2001:db8:1:2::/64"],
      ["2001:0DB8:0001:0002:ffff::", "2001:db8:1:2::/64"],
      ["2001:db8::3:0:0:0:1", "2001:db8:0:3::/64"],
      ["2001:db8::", "2001:db8:0:0::/64"],
      ["2001:db8::10.0.0.1", "2001:db8:0:0::/64"],
      ["fe80::1%eth0", "fe80:0:0:0::/64"],
      ["::1", "0:0:0:0::/64"],
      ["::", "0:0:0:0::/64"],
    ] as const) {
      assert.equal(networkOf(address), network, address);
    }
  });

  it("returns text that is not an address unchanged", () => {
    assert.equal(networkOf(""), "");
    assert.equal(networkOf("memory"), "memory");
  });
});
