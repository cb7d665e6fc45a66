import { hostname } from "node:os";
import { isGranted } from "./permission.ts";

/**
 * Returns the name of this host. Returns undefined on Deno without `--allow-sys=hostname`, because
 * Deno would prompt for the permission.
 */
export function hostName(): string | undefined {
  return isGranted({ name: "sys", kind: "hostname" }) ? hostname() : undefined;
}
