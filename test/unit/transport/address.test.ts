import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  formatAddress,
  isIPv6,
  isIpAddress,
  parseAddress,
  unmapped,
} from "../../../src/transport/address.ts";
import { assertThrows } from "../../support/failures.ts";

describe("addresses", () => {
  const forms: [text: string, host: string, port: number][] = [
    ["10.0.0.1:4006", "10.0.0.1", 4006],
    ["peer-3.example.org:1", "peer-3.example.org", 1],
    ["[::1]:4006", "::1", 4006],
    ["[fe80::1%eth0]:65535", "fe80::1%eth0", 65535],
    ["[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80],
    ["localhost:0", "localhost", 0],
  ];
  for (const [text, host, port] of forms) {
    it(`${text} is parsed, and formatted again`, () => {
      assert.deepEqual(parseAddress(text), { host, port });
      assert.equal(formatAddress({ host, port }), text);
    });
  }

  it("drops leading zeros of a port, so that a peer has one name", () => {
    assert.equal(formatAddress(parseAddress("h:00080")), "h:80");
  });

  const refused = [
    "",
    "host",
    ":4006",
    "host:",
    "host:port",
    "host:65536",
    "host:-1",
    "host:123456",
    "::1:4006",
    "[::1]",
    "[::1]4006",
    "[]:1",
    "[host]:1",
    "http://host:1",
    "host/path:1",
    "ho st:1",
    "host:1 ",
    " host:1",
    "host:1\n",
    "host:1.5",
    "host:0x10",
  ];
  for (const text of refused) {
    it(`${JSON.stringify(text)} is rejected, and quoted in the message`, () => {
      const error = assertThrows(() => parseAddress(text), "InvalidArgument");
      assert.ok(error.message.includes(JSON.stringify(text).slice(1, -1)), error.message);
    });
  }

  it("rejects ports over 65535 and fractions when formatting", () => {
    for (const port of [-1, 65536, 1.5, Number.NaN]) {
      assertThrows(() => formatAddress({ host: "h", port }), "InvalidArgument");
    }
  });
});

describe("hosts of addresses", () => {
  it("are IP addresses, or not", () => {
    for (const ip of ["10.0.0.1", "0.0.0.0", "255.255.255.255", "::", "fe80::1", "::ffff:1.2.3.4"])
      assert.ok(isIpAddress(ip), ip);
    const others = [
      "",
      "1.2.3",
      "1.2.3.4.",
      "1.2.3.256",
      "01.2.3.4.5",
      "host",
      "fe80::1%eth0",
      ":::",
    ];
    for (const host of [...others, "[::1]", "1:2", "::1/64"]) assert.ok(!isIpAddress(host), host);
  });

  it("are IPv6 addresses, also with a zone", () => {
    for (const host of ["::1", "fe80::1%eth0"]) assert.ok(isIPv6(host), host);
    for (const host of ["10.0.0.1", "localhost", ""]) assert.ok(!isIPv6(host), host);
  });

  it("that are IPv4-mapped become IPv4", () => {
    assert.equal(unmapped("::ffff:10.0.0.1"), "10.0.0.1");
    assert.equal(unmapped("::FFFF:10.0.0.1"), "10.0.0.1");
    for (const host of ["::ffff:a00:1", "::1", "10.0.0.1", "fe80::ffff:1.2.3.4", ""])
      assert.equal(unmapped(host), host);
  });
});
