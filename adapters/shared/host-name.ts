import { hostname } from "node:os";
import { isGranted } from "./permission.ts";

/** The name of this host; undefined where the runtime would have to ask its user for it, as Deno without `--allow-sys=hostname`. */
export function hostName(): string | undefined {
  return isGranted({ name: "sys", kind: "hostname" }) ? hostname() : undefined;
}
