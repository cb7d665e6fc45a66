import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  abortedError,
  type ErrorCode,
  type ErrorKind,
  errorCodes,
  VortexError,
  withAddress,
} from "../../src/errors.ts";

// A copy of the table, to notice when a code changes its kind: callers decide by it whether to
// retry.
const codes: Record<ErrorKind, readonly ErrorCode[]> = {
  misuse: ["InvalidArgument", "Unavailable", "Closed", "PermissionDenied"],
  peer: [
    "InvalidPacket",
    "InvalidLength",
    "InvalidUtf8",
    "ProtocolViolation",
    "LimitExceeded",
    "PieceMismatch",
    "LengthMismatch",
    "DigestMismatch",
    "TruncatedContent",
  ],
  remote: [
    "NotFound",
    "PieceNotFound",
    "RemoteInvalidArgument",
    "RemoteInternal",
    "RemoteUnimplemented",
    "RemoteBusy",
    "RemoteUnknown",
    "OriginFailed",
  ],
  transport: [
    "ConnectionRefused",
    "Unreachable",
    "ProtocolNotSupported",
    "HandshakeFailed",
    "ConnectionLost",
    "StreamReset",
    "EarlyDataRefused",
    "AddressInUse",
  ],
  timeout: ["ConnectTimeout", "PieceTimeout", "Stalled"],
  aborted: ["Aborted"],
  local: ["StorageFailed", "Internal"],
};

describe("codes and kinds", () => {
  for (const [kind, those] of Object.entries(codes)) {
    for (const code of those) {
      it(`${code} is of kind ${kind}`, () => {
        assert.equal(new VortexError(code, "x").kind, kind);
      });
    }
  }

  it("there are no other codes", () => {
    assert.deepEqual([...errorCodes].sort(), Object.values(codes).flat().sort());
  });
});

describe("VortexError", () => {
  it("is an Error with a name, a message, a cause and the peer's address", () => {
    const cause = new Error("below");
    const error = new VortexError("ConnectionLost", "gone", { cause, addr: "10.0.0.1:4006" });
    assert.ok(error instanceof Error);
    assert.deepEqual(
      [error.name, error.message, error.cause, error.addr, String(error)],
      ["VortexError", "gone", cause, "10.0.0.1:4006", "VortexError: gone"],
    );
  });

  it("has the name of an abort or a timeout, like errors of fetch", async () => {
    for (const [kind, those] of Object.entries(codes))
      for (const code of those) {
        const name =
          kind === "timeout" ? "TimeoutError" : kind === "aborted" ? "AbortError" : "VortexError";
        assert.equal(new VortexError(code, "x").name, name, code);
      }
    const { signal } = new AbortController();
    assert.equal(abortedError(AbortSignal.abort(), "x").name, "AbortError");
    assert.equal(abortedError(AbortSignal.abort("enough"), "x").name, "AbortError");
    assert.equal(abortedError(signal, "x").name, "AbortError");
    const late = AbortSignal.timeout(1);
    await new Promise((resolve) => late.addEventListener("abort", resolve));
    const error = abortedError(late, "x");
    assert.deepEqual([error.name, error.code, error.kind], ["TimeoutError", "Aborted", "aborted"]);
    const elsewhere = withAddress(error, "a:1");
    assert.deepEqual([elsewhere.name, elsewhere.addr], ["TimeoutError", "a:1"]);
    assert.ok(error instanceof VortexError);
    // Only an abort takes the name of its reason.
    const lost = new VortexError("ConnectionLost", "x", { cause: late.reason });
    assert.equal(lost.name, "VortexError");
  });

  it("has no cause property when there is no cause", () => {
    assert.equal(Object.hasOwn(new VortexError("Closed", "x"), "cause"), false);
    assert.equal(new VortexError("Closed", "x").addr, undefined);
  });

  it("from() returns a VortexError unchanged", () => {
    const error = new VortexError("NotFound", "x");
    assert.equal(VortexError.from(error, "Internal", "what", "a:1"), error);
  });

  it("from() keeps any other value as cause", () => {
    const cause = new TypeError("oops");
    const error = VortexError.from(cause, "StorageFailed", "reading the file", "a:1");
    assert.deepEqual(
      [error.code, error.message, error.cause, error.addr],
      ["StorageFailed", "reading the file: oops", cause, "a:1"],
    );
    assert.equal(VortexError.from("a string", "Internal").message, "a string");
    assert.equal(VortexError.from("a string", "Internal").cause, "a string");
    assert.equal(VortexError.from(undefined, "Internal").message, "undefined");
  });
});

describe("withAddress", () => {
  it("returns an error with an address unchanged, and copies one without, keeping the cause", () => {
    const knowing = new VortexError("Closed", "x", { addr: "a:1" });
    assert.equal(withAddress(knowing, "b:2"), knowing);
    const cause = new Error("below");
    const copied = withAddress(new VortexError("StreamReset", "x", { cause }), "b:2");
    assert.deepEqual(
      [copied.code, copied.message, copied.addr, copied.cause],
      ["StreamReset", "x", "b:2", cause],
    );
    const bare = new VortexError("StreamReset", "x");
    assert.equal(withAddress(bare, "b:2").cause, bare);
    // For example, an abort with the reason `null`.
    const empty = new VortexError("Aborted", "x", { cause: null });
    assert.equal(withAddress(empty, "b:2").cause, null);
  });

  it("keeps the stack of the error", () => {
    function inTheTransport(): VortexError {
      return new VortexError("StreamReset", "x", { cause: new Error("below") });
    }
    const error = inTheTransport();
    assert.match(error.stack ?? "", /inTheTransport/);
    assert.equal(withAddress(error, "b:2").stack, error.stack);
  });

  it("reads the stack lazily, because formatting it takes file descriptors on Deno", () => {
    const error = new VortexError("StreamReset", "x");
    let reads = 0;
    Object.defineProperty(error, "stack", {
      get() {
        reads++;
        return "at somewhere";
      },
    });
    const copy = withAddress(error, "b:2");
    assert.equal(reads, 0);
    assert.equal(copy.stack, "at somewhere");
    copy.stack = "at another place";
    assert.equal(copy.stack, "at another place");
  });

  it("converts any other value to Internal", () => {
    const cause = new RangeError("oops");
    const error = withAddress(cause, "b:2");
    assert.deepEqual([error.code, error.addr, error.cause], ["Internal", "b:2", cause]);
  });
});

describe("VortexError of any value", () => {
  const failing = (): never => {
    throw new Error("trap");
  };
  const trapped = new Proxy(new Error("x"), { get: failing, getPrototypeOf: failing });
  const { proxy: revoked, revoke } = Proxy.revocable({}, {});
  revoke();
  const unreadable = Object.defineProperty(new Error("x"), "message", { get: failing });

  it("from() and the constructor never throw", () => {
    for (const value of [Object.create(null), trapped, revoked, unreadable]) {
      const error = VortexError.from(value, "Internal", "failed");
      assert.equal(error.message, "failed: [unreadable]");
      for (const code of ["Internal", "Aborted"] as const) {
        const holder = new VortexError(code, "x", { cause: value });
        assert.equal(holder.cause, value);
        assert.equal(holder.name, code === "Aborted" ? "AbortError" : "VortexError");
      }
    }
    assert.equal(VortexError.from(Symbol("s"), "Internal").message, "Symbol(s)");
  });
});

describe("abortedError", () => {
  it("keeps the reason of the signal as cause, and returns a VortexError unchanged", () => {
    const reason = new Error("enough");
    const error = abortedError(AbortSignal.abort(reason), "piece 3");
    assert.deepEqual(
      [error.code, error.message, error.cause],
      ["Aborted", "piece 3 was aborted", reason],
    );
    const own = new VortexError("PieceTimeout", "late");
    assert.equal(abortedError(AbortSignal.abort(own), "piece 3"), own);
  });
});
