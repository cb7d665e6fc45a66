/** Permissions of the runtime, where it has any: Deno asks its user, or is started with `--allow-…`. */

/** A permission as Deno names it. */
export interface Permission {
  readonly name: "read" | "write" | "net" | "env" | "run" | "sys";
  readonly path?: string;
  readonly host?: string;
  readonly kind?: string;
}

interface PermissionStatus {
  readonly state: "granted" | "prompt" | "denied";
}

/** The part of Deno that answers for permissions. */
interface Permissions {
  querySync(permission: Permission): PermissionStatus;
}

/** Returns whether an operation may run without a question to the user. Always true on runtimes without permissions. */
export function isGranted(permission: Permission): boolean {
  const { Deno } = globalThis as { readonly Deno?: { readonly permissions: Permissions } };
  return Deno === undefined || Deno.permissions.querySync(permission).state === "granted";
}
