import { hostname } from "node:os";
import { isGranted } from "./permission.ts";

/**
 * Returns the name of this host. Undefined when Deno would prompt for it, that is, without
 * `--allow-sys=hostname`.
 */
export function hostName(): string | undefined {
  return isGranted({ name: "sys", kind: "hostname" }) ? hostname() : undefined;
}
