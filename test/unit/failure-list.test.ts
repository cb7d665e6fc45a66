import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { nativeError } from "../../adapters/shared/native-error.ts";
import { failureText } from "../../cli/progress.ts";
import { type ErrorCode, VortexError } from "../../src/errors.ts";
import { attemptLabel, type FailedAttempt, listFailures } from "../../src/failure-list.ts";

const error = (code: ErrorCode, message: string) => new VortexError(code, message);

describe("the message of an error that combines several", () => {
  it("has no code that the combined error has, and groups attempts with the same error", () => {
    const refused = error("ConnectionRefused", "cannot connect to a:1");
    const attempts: FailedAttempt[] = [
      { label: "tcp", error: refused },
      { label: "quic", error: error("ConnectionRefused", "cannot reach a:1") },
      { label: "grpc", error: refused },
      { label: "b:1 does not have it", error: undefined },
    ];
    assert.equal(
      listFailures(attempts, "ConnectionRefused"),
      "tcp, grpc: cannot connect to a:1; quic: cannot reach a:1; b:1 does not have it",
    );
  });

  it("has each code if they differ", () => {
    const attempts: FailedAttempt[] = [
      { label: "", error: error("Stalled", "silent a:1") },
      { label: "b:1", error: error("NotFound", "no such task") },
    ];
    assert.equal(
      listFailures(attempts, "NotFound"),
      "Stalled, silent a:1; b:1: NotFound, no such task",
    );
  });

  it("names an address only where the error does not", () => {
    const refused = error("ConnectionRefused", "cannot connect to [::1]:1: refused");
    const wrong = error("ProtocolNotSupported", "a:1 does not speak HTTP/2 (Protocol error)");
    assert.deepEqual(
      [
        attemptLabel("[::1]:1", undefined, refused),
        attemptLabel("[::1]:1", "tcp", refused),
        attemptLabel("::1", "tcp", refused),
        attemptLabel("a:1", undefined, wrong),
        attemptLabel("a", undefined, wrong),
      ],
      ["", "tcp", "::1 over tcp", "", "a"],
    );
  });

  it("of a native error names the address once", () => {
    for (const [addr, native] of [
      ["127.0.0.1:9", "127.0.0.1:9"],
      ["[::1]:9", "::1:9"],
    ]) {
      const cause = Object.assign(new Error(`connect ECONNREFUSED ${native}`), {
        code: "ECONNREFUSED",
      });
      const failure = nativeError(cause, "Unreachable", `cannot connect to ${addr}`);
      assert.equal(failure.code, "ConnectionRefused");
      assert.equal(failure.message, `cannot connect to ${addr}: connect ECONNREFUSED`);
      assert.equal(failure.cause, cause);
      assert.equal(
        failureText(failure, addr),
        "ConnectionRefused: cannot connect: connect ECONNREFUSED",
      );
    }
    const other = nativeError(new Error("no route to b:2"), "Unreachable", "cannot reach a:1");
    assert.equal(other.message, "cannot reach a:1: no route to b:2");
  });
});
