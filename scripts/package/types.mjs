// Compiles a program that uses the installed package, by several versions of TypeScript.
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { install } from "./project.mjs";

/**
 * Versions of TypeScript, from the least that README states to the newest. `Uint8Array` is generic
 * from 5.7 on.
 */
export const TYPESCRIPTS = ["5.7.2", "5.8.3", "5.9.3", "6.0.3", "7.0.2"];
const RESOLUTIONS = [
  { module: "nodenext", moduleResolution: "nodenext" },
  { module: "esnext", moduleResolution: "bundler" },
];
const alias = (version) => `typescript-${version}`;

/**
 * Compiles `types-consumer.ts` in a new project in `folder`, and returns the errors of each version
 * under each module resolution. Checks the declarations of the package and its dependencies too.
 *
 * @param subpaths every subpath of the package, each of which the program must import
 */
export function typeProblems(folder, tarball, subpaths, versions = TYPESCRIPTS) {
  const { devDependencies } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  );
  // Not development dependencies: each has a program `tsc`, and npm links only one of them. The
  // optional packages have no types that the package names.
  install(folder, [
    tarball,
    `@types/node@${devDependencies["@types/node"]}`,
    ...versions.map((version) => `${alias(version)}@npm:typescript@${version}`),
  ]);
  const program = new URL("types-consumer.ts", import.meta.url);
  copyFileSync(program, join(folder, "types-consumer.ts"));
  const text = readFileSync(program, "utf8");
  const missing = subpaths
    .filter((subpath) => !text.includes(`"vortex-peer${subpath.slice(1)}"`))
    .map((subpath) => `types-consumer.ts: expected an import of ${subpath}, got none`);
  return [
    ...missing,
    ...versions.flatMap((version) =>
      RESOLUTIONS.flatMap((resolution) => compiled(folder, version, resolution)),
    ),
  ];
}

function compiled(folder, version, resolution) {
  const file = `tsconfig.${resolution.moduleResolution}.json`;
  const compilerOptions = {
    ...resolution,
    target: "es2022",
    lib: ["es2023", "esnext.disposable", "dom", "dom.iterable", "dom.asynciterable"],
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    noEmit: true,
  };
  writeFileSync(
    join(folder, file),
    JSON.stringify({ compilerOptions, files: ["types-consumer.ts"] }),
  );
  const tsc = join(folder, "node_modules", alias(version), "bin", "tsc");
  const { status, stdout, stderr } = spawnSync(process.execPath, [tsc, "-p", file], {
    cwd: folder,
    encoding: "utf8",
  });
  if (status === 0) return [];
  return [`TypeScript ${version}, ${resolution.moduleResolution}:\n${stdout}${stderr}`];
}
