import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../src/errors.ts";
import { loadPart } from "../../src/load.ts";

describe("loadPart", () => {
  it("resolves to the loaded module", async () => {
    const { VortexError: loaded } = await loadPart("errors", () => import("../../src/errors.ts"));
    assert.equal(loaded, VortexError);
  });

  it("fails with Unavailable, in one line that says what to do, if a package is missing", async () => {
    const missing = "vortex-peer-test-missing-package";
    const error = await loadPart("gRPC", () => import(missing)).catch((reason: unknown) => reason);
    assert.ok(error instanceof VortexError);
    assert.equal(error.code, "Unavailable");
    assert.match(
      error.message,
      /^cannot load gRPC: .*vortex-peer-test-missing-package.*; install vortex-peer with .*restart$/,
    );
    assert.ok(error.cause instanceof Error);
  });

  it("passes a VortexError of the loaded part unchanged", async () => {
    const error = new VortexError("Unavailable", "no binary for this platform");
    await assert.rejects(
      loadPart("QUIC", () => Promise.reject(error)),
      (reason) => reason === error,
    );
  });
});
