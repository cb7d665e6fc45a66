/**
 * Checks permissions of the runtime: Deno's `--allow-…` flags, and those of `node --permission`.
 */
import { VortexError } from "../../src/errors.ts";

/** Permission descriptor of Deno. */
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

/** Part of `Deno.permissions` used here. */
interface Permissions {
  querySync(permission: Permission): PermissionStatus;
  request(permission: Permission): Promise<PermissionStatus>;
}

/** Returns true if an operation is permitted without a prompt. Always true except on Deno. */
export function isGranted(permission: Permission): boolean {
  const status = permissions()?.querySync(permission);
  return status === undefined || status.state === "granted";
}

/**
 * Requests the permission to listen on `host` and `port` from Deno. Without it, Deno ends the
 * process when a node:net server starts to listen. Rejects with `PermissionDenied`.
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

/**
 * Converts a native error to `PermissionDenied` if a denied runtime permission caused it. Undefined
 * for other errors. `what` is the failed action.
 */
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

/** Returns the reason and the missing flag for a denied permission of Deno. */
function deniedByDeno(error: Error): string | undefined {
  if (error.name === "NotCapable") return error.message;
  const { code, syscall, hostname } = error as {
    code?: unknown;
    syscall?: unknown;
    hostname?: unknown;
  };
  // Deno reports a denied lookup as EPERM. Name servers never cause that code.
  const isRefused = code === "EPERM" && syscall === "getaddrinfo" && permissions() !== undefined;
  return isRefused
    ? `no net access to ${hostname}: run again with --allow-net=${hostname}`
    : undefined;
}

/** Node's flag for each permission (https://nodejs.org/api/permissions.html). */
const nodeFlags: Readonly<Record<string, string>> = {
  FileSystemRead: "--allow-fs-read",
  FileSystemWrite: "--allow-fs-write",
  ChildProcess: "--allow-child-process",
  WorkerThreads: "--allow-worker",
  Net: "--allow-net",
};

/** Returns the reason and the missing flag for a denied permission of Node. */
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
