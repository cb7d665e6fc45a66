/** Permissions of the runtime, where it has any: Deno's `--allow-…`, and those of `node --permission`. */
import { VortexError } from "../../src/errors.ts";

/** A permission as Deno names it. */
export interface Permission {
  readonly name: "read" | "write" | "net" | "env" | "run" | "sys";
  readonly path?: string;
  readonly host?: string;
  readonly variable?: string;
  readonly kind?: string;
}

interface PermissionStatus {
  readonly state: "granted" | "prompt" | "denied";
}

/** The part of Deno that answers for permissions. */
interface Permissions {
  querySync(permission: Permission): PermissionStatus;
  request(permission: Permission): Promise<PermissionStatus>;
}

/** Returns whether an operation may run without a question to the user. Always true on runtimes other than Deno. */
export function isGranted(permission: Permission): boolean {
  const status = permissions()?.querySync(permission);
  return status === undefined || status.state === "granted";
}

/**
 * Asks for the permission to use `host` and `port`, where Deno would end the process for want of it: it does so when a server
 * of node:net starts to listen. Rejects with `PermissionDenied`.
 */
export async function requireNet(host: string, port: number): Promise<void> {
  const name = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  const status = await permissions()?.request({ name: "net", host: name });
  if (status === undefined || status.state === "granted") return;
  throw new VortexError(
    "PermissionDenied",
    `no net access to ${name}: run again with --allow-net=${name}`,
  );
}

/** The `PermissionDenied` of a native error, if permissions of the runtime are why the operation failed; `what` says what failed. */
export function permissionError(error: unknown, what: string): VortexError | undefined {
  if (!(error instanceof Error)) return undefined;
  const reason = deniedByDeno(error) ?? deniedByNode(error);
  return reason === undefined
    ? undefined
    : new VortexError("PermissionDenied", `${what}: ${reason}`, { cause: error });
}

function permissions(): Permissions | undefined {
  return (globalThis as { readonly Deno?: { readonly permissions: Permissions } }).Deno
    ?.permissions;
}

/** Deno's message names the flag. */
function deniedByDeno(error: Error): string | undefined {
  if (error.name === "NotCapable") return error.message;
  const { code, syscall, hostname } = error as {
    code?: unknown;
    syscall?: unknown;
    hostname?: unknown;
  };
  // Name servers have other codes for all that goes wrong there.
  const isRefused = code === "EPERM" && syscall === "getaddrinfo" && permissions() !== undefined;
  return isRefused
    ? `no net access to ${hostname}: run again with --allow-net=${hostname}`
    : undefined;
}

/** Flags of Node by the names of its permissions (https://nodejs.org/api/permissions.html). */
const nodeFlags: Readonly<Record<string, string>> = {
  FileSystemRead: "--allow-fs-read",
  FileSystemWrite: "--allow-fs-write",
  ChildProcess: "--allow-child-process",
  WorkerThreads: "--allow-worker",
  Net: "--allow-net",
};

function deniedByNode(error: Error): string | undefined {
  const { code, permission, resource } = error as {
    code?: unknown;
    permission?: unknown;
    resource?: unknown;
  };
  if (code === "ERR_DLOPEN_DISABLED")
    return "no access to native addons: run again with --allow-addons";
  if (code !== "ERR_ACCESS_DENIED") return undefined;
  const flag = nodeFlags[String(permission)];
  const access = resource ? `${permission} access to ${resource}` : `${permission} access`;
  return flag === undefined ? error.message : `no ${access}: run again with ${flag}`;
}
