/** The load of the gRPC implementation at the first call, and a close meanwhile. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { VortexError } from "../../../src/errors.ts";
import type { GrpcBinding } from "../../../src/transport/grpc.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, fakeRuntime } from "../../support/fake-clock.ts";

const request = { addr: "127.0.0.1:4000", hostId: "h", taskId: "ab".repeat(32), number: 0 };
const refused = new VortexError("ConnectionRefused", "no listener");

/** Downloader whose binding loads when the test says so. It counts loads and dials. */
function lazyDownloader() {
  const counts = { loads: 0, dials: 0 };
  const loading = deferred<GrpcBinding>();
  const binding: GrpcBinding = {
    dial() {
      counts.dials++;
      return Promise.reject(refused);
    },
  };
  const downloader = new GrpcDownloader(
    () => {
      counts.loads++;
      return loading.promise;
    },
    downloaderSettings({}, fakeRuntime(new FakeClock())),
  );
  return { downloader, counts, loading, binding };
}

/** Promise with its `resolve` and `reject`. */
function deferred<T>() {
  let resolve: (value: T) => void = () => {};
  let reject: (error: Error) => void = () => {};
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

describe("the gRPC implementation", () => {
  it("is loaded at the first call, not at the creation of the downloader", async () => {
    const { downloader, counts, loading, binding } = lazyDownloader();
    assert.equal(counts.loads, 0);
    loading.resolve(binding);
    await assertRejects(downloader.downloadPiece(request), "ConnectionRefused");
    assert.deepEqual(counts, { loads: 1, dials: 1 });
    await downloader.close();
  });

  it("is not loaded after a close without a call", async () => {
    const { downloader, counts } = lazyDownloader();
    await downloader.close();
    await assertRejects(downloader.downloadPiece(request), "Closed");
    assert.deepEqual(counts, { loads: 0, dials: 0 });
  });

  it("dials no peer when the downloader is closed during the load, and close waits for it", async () => {
    const { downloader, counts, loading, binding } = lazyDownloader();
    const call = downloader.downloadPiece(request);
    let closed = false;
    const closing = downloader.close().then(() => {
      closed = true;
    });
    // The call does not wait for the load.
    await assertRejects(call, "Closed");
    assert.equal(closed, false);
    loading.resolve(binding);
    await closing;
    await assertRejects(downloader.downloadPiece(request), "Closed");
    assert.deepEqual(counts, { loads: 1, dials: 0 });
  });

  it("dials no peer when the call is aborted during the load", async () => {
    const { downloader, counts, loading, binding } = lazyDownloader();
    const controller = new AbortController();
    const call = downloader.downloadPiece({ ...request, signal: controller.signal });
    controller.abort();
    await assertRejects(call, "Aborted");
    loading.resolve(binding);
    await downloader.close();
    assert.deepEqual(counts, { loads: 1, dials: 0 });
  });

  it("fails the calls when it does not load, and close still resolves", async () => {
    const { downloader, counts, loading } = lazyDownloader();
    loading.reject(new VortexError("Unavailable", "cannot load gRPC"));
    await assertRejects(downloader.downloadPiece(request), "Unavailable");
    await assertRejects(downloader.downloadPiece(request), "Unavailable");
    await downloader.close();
    assert.deepEqual(counts, { loads: 2, dials: 0 });
  });
});
