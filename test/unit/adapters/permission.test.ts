import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { storageError } from "../../../adapters/files/storage-error.ts";
import { listenError, nativeError } from "../../../adapters/shared/native-error.ts";
import { isGranted, permissionError, requireNet } from "../../../adapters/shared/permission.ts";
import { runtimeName } from "../../support/fixtures.ts";

/** Errors of denied permissions, as created by Deno and Node. */
const refusals: readonly (readonly [what: string, error: Error, reason: string])[] = [
  [
    "Deno's",
    Object.assign(new Error('Requires read access to "/x", run again with the --allow-read flag'), {
      name: "NotCapable",
    }),
    'Requires read access to "/x", run again with the --allow-read flag',
  ],
  [
    "Node's, to a file",
    nodeError({ permission: "FileSystemWrite", resource: "/x" }),
    "no FileSystemWrite access to /x: run again with --allow-fs-write",
  ],
  [
    "Node's, to a process",
    nodeError({ permission: "ChildProcess" }),
    "no ChildProcess access: run again with --allow-child-process",
  ],
  [
    "Node's, of a kind that is not known",
    nodeError({ permission: "Teleport" }),
    "Access to this API has been restricted",
  ],
  [
    "Node's, to an addon",
    Object.assign(new Error("native"), { code: "ERR_DLOPEN_DISABLED" }),
    "no access to native addons: run again with --allow-addons",
  ],
];

function nodeError(more: object): Error {
  return Object.assign(new Error("Access to this API has been restricted"), {
    code: "ERR_ACCESS_DENIED",
    ...more,
  });
}

describe("a denied permission", () => {
  for (const [what, error, reason] of refusals) {
    it(`(${what}) becomes PermissionDenied in every conversion`, () => {
      for (const failure of [
        permissionError(error, "x failed"),
        storageError(error, "x failed"),
        nativeError(error, "Unreachable", "x failed"),
      ]) {
        assert.deepEqual(
          [failure?.code, failure?.kind, failure?.message, failure?.cause],
          ["PermissionDenied", "misuse", `x failed: ${reason}`, error],
        );
      }
      const listening = listenError(error, "10.0.0.1:1");
      assert.deepEqual(
        [listening.code, listening.message],
        ["PermissionDenied", `cannot listen on 10.0.0.1:1: ${reason}`],
      );
    });
  }

  it("is not recognized in other errors, such as EACCES of the system", () => {
    for (const error of [
      Object.assign(new Error("native"), { code: "EACCES" }),
      Object.assign(new Error("native"), { code: "EPERM", syscall: "open" }),
      Object.assign(new Error("native"), { code: "ENOTFOUND", syscall: "getaddrinfo" }),
      Object.assign(new Error("native"), { name: "PermissionDenied", code: "EACCES" }),
      new Error("NotCapable"),
      "NotCapable",
      undefined,
    ]) {
      assert.equal(permissionError(error, "x failed"), undefined);
    }
  });

  it("for a name lookup is recognized by code and syscall, on Deno only", () => {
    const error = Object.assign(new Error("getaddrinfo EPERM a.b"), {
      code: "EPERM",
      syscall: "getaddrinfo",
      hostname: "a.b",
    });
    const expected =
      runtimeName === "deno"
        ? "x failed: no net access to a.b: run again with --allow-net=a.b"
        : undefined;
    assert.equal(permissionError(error, "x failed")?.message, expected);
  });
});

it("granted permissions are not requested", async () => {
  assert.equal(isGranted({ name: "read", path: "/" }), true);
  assert.equal(isGranted({ name: "sys", kind: "hostname" }), true);
  for (const host of ["127.0.0.1", "::1", "0.0.0.0", "fe80::1%lo"]) await requireNet(host, 0);
});
