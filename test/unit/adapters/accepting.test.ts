import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { describe, it } from "node:test";
import { keepAccepting } from "../../../adapters/shared/accepting.ts";
import type { VortexError } from "../../../src/errors.ts";

async function listening(onError: (error: VortexError) => void): Promise<Server> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  keepAccepting(server, "127.0.0.1:4005", onError);
  return server;
}

function acceptError(code: string): Error {
  return Object.assign(new Error(`accept ${code}`), { code });
}

describe("a listener whose accept fails", () => {
  it("reports the failure with the address and the native error, and keeps listening", async () => {
    const errors: VortexError[] = [];
    const server = await listening((error) => errors.push(error));
    const cause = acceptError("EMFILE");
    server.emit("error", cause);
    assert.deepEqual(
      errors.map(({ code, message, cause }) => ({ code, message, cause })),
      [
        {
          code: "Unreachable",
          message: "cannot accept connections on 127.0.0.1:4005: accept EMFILE",
          cause,
        },
      ],
    );
    assert.equal(server.listening, true);
    server.close();
    await once(server, "close");
  });

  it("reports a burst of failures at most once per second", async () => {
    let reports = 0;
    const server = await listening(() => reports++);
    const started = performance.now();
    for (let count = 0; count < 1000; count++) server.emit("error", acceptError("ECONNABORTED"));
    assert.ok(
      reports >= 1 && reports <= 1 + (performance.now() - started) / 1000,
      `${reports} reports`,
    );
    server.close();
    await once(server, "close");
  });

  it("survives an onError that throws", async () => {
    const server = await listening(() => {
      throw new Error("failure of the user's callback");
    });
    server.emit("error", acceptError("ENFILE"));
    assert.equal(server.listening, true);
    server.close();
    await once(server, "close");
  });
});
