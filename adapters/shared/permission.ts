/**
 * Checks the permissions that the user grants to the program: by Deno's `--allow-…` flags, or by
 * the flags of `node --permission`.
 */
import { VortexError } from "../../src/errors.ts";
import { formatAddress } from "../../src/transport/address.ts";

/** Descriptor of a Deno permission, as in `Deno.PermissionDescriptor`. */
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

/** Methods of `Deno.permissions` that are used here. */
interface Permissions {
  querySync(permission: Permission): PermissionStatus;
  request(permission: Permission): Promise<PermissionStatus>;
}

/** Returns true if Deno grants the permission without a prompt. Always true on other runtimes. */
export function isGranted(permission: Permission): boolean {
  const status = permissions()?.querySync(permission);
  return status === undefined || status.state === "granted";
}

/**
 * Requests the permission to listen on `host` and `port` from Deno. Does nothing on other runtimes.
 * Rejects with `PermissionDenied` if Deno denies the permission. Without this request, Deno would
 * end the process when a node:net server starts to listen.
 */
export async function requireNet(host: string, port: number): Promise<void> {
  const name = formatAddress({ host, port });
  const status = await permissions()?.request({ name: "net", host: name });
  if (status === undefined || status.state === "granted") return;
  throw new VortexError(
    "PermissionDenied",
    `no net access to ${name}: run again with --allow-net=${name}`,
  );
}

/**
 * Returns a `PermissionDenied` error if a denied permission of the runtime caused the native error.
 * Returns undefined for other errors.
 *
 * @param what the failed action, for the message, such as `cannot connect to 10.0.0.7:4001`
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

/**
 * Returns the reason and the missing flag, as text, if a denied Deno permission caused the error.
 * Returns undefined for other errors.
 */
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

/**
 * Command-line flag of Node that grants each permission (https://nodejs.org/api/permissions.html).
 */
const nodeFlags: Readonly<Record<string, string>> = {
  FileSystemRead: "--allow-fs-read",
  FileSystemWrite: "--allow-fs-write",
  ChildProcess: "--allow-child-process",
  WorkerThreads: "--allow-worker",
  Net: "--allow-net",
};

/**
 * Returns the reason and the missing flag, as text, if a denied Node permission caused the error.
 * Returns undefined for other errors.
 */
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
