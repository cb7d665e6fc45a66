// Adds the optional platform packages that are missing in package-lock.json. npm omits them when
// its registry does not have them (npm/cli#4828), and `npm ci` then rejects the lock on every
// platform. They are added without integrity. Run it after each change of dependencies: `npm run
// lock`.
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("../package-lock.json", import.meta.url);
const lock = JSON.parse(readFileSync(file, "utf8"));
const operatingSystems = {
  android: "android",
  darwin: "darwin",
  linux: "linux",
  win32: "win32",
  windows: "win32",
  openharmony: "openharmony",
  freebsd: "freebsd",
  netbsd: "netbsd",
  openbsd: "openbsd",
  sunos: "sunos",
  aix: "aix",
};
const processors = [
  "arm64",
  "x64",
  "ia32",
  "armv7",
  "arm",
  "riscv64",
  "loong64",
  "mips64el",
  "ppc64le",
  "ppc64",
  "s390x",
  "aarch64",
];

let added = 0;
for (const [path, entry] of Object.entries(lock.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const key = `node_modules/${name}`;
    if (
      key in lock.packages ||
      `${path}/node_modules/${name}` in lock.packages ||
      !/^\d/.test(version)
    )
      continue;
    const words = name.split(/[/-]/);
    const os = words.map((word) => operatingSystems[word]).find(Boolean);
    const cpu = processors.find((word) => words.includes(word));
    lock.packages[key] = {
      version,
      ...(cpu && { cpu: [cpu === "armv7" ? "arm" : cpu === "aarch64" ? "arm64" : cpu] }),
      ...(entry.dev && { dev: true }),
      optional: true,
      ...(os && { os: [os] }),
    };
    added++;
  }
}
lock.packages = Object.fromEntries(
  Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)),
);
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`package-lock.json: ${added} optional packages of other platforms added`);
