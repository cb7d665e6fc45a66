// The package as users install it: packed, and installed into an empty project.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Packs the built package into a tarball in `folder`, and returns its path. */
export function pack(folder) {
  const listing = npm(root, ["pack", "--ignore-scripts", "--json", `--pack-destination=${folder}`]);
  return join(folder, JSON.parse(listing)[0].filename);
}

/** Creates an empty project in `folder` and installs packages into it. */
export function install(folder, packages, ...options) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "package.json"),
    `${JSON.stringify({ private: true, type: "module" })}\n`,
  );
  npm(folder, ["install", "--no-audit", "--no-fund", "--no-save", ...options, ...packages]);
}

function npm(cwd, args) {
  // On Windows, npm is a shell script.
  return execFileSync("npm", args, {
    cwd,
    encoding: "utf8",
    shell: process.platform === "win32",
    stdio: "pipe",
  });
}
