// Tests the packed package. Installs the tarball into an empty project, imports it by its names and
// fetches a piece over each protocol, on Node 20, 22, 24 and 26, Bun, Deno and workerd. Two more
// rows cover a project without the optional packages, where all but quiche must work, and a bundler
// without any export condition, which gets the core. Prints a table. Also compiles a program
// against the package, by the least to the newest TypeScript.
//
//     npm run test:package
//     npm run test:package -- --quick     one Node, and only the least and the newest TypeScript
import { spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Miniflare } from "miniflare";
import { rolldown } from "rolldown";
import { install, pack } from "./package/project.mjs";
import { TYPESCRIPTS, typeProblems } from "./package/types.mjs";

/** One version of each Node release line, from the npm packages with its binary. */
const NODES = ["20.20.2", "22.23.3", "24.21.0", "26.10.0"];
/** Timeout of one runtime in ms, for hanging processes. */
const TIMEOUT_MS = 180_000;
const COLUMNS = ["import", "tcp", "quic", "grpc"];
const taskId = "ab".repeat(32);
const content = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 31) % 251);
const root = fileURLToPath(new URL("..", import.meta.url));
const bin = (name) => join(root, "node_modules", ".bin", name);
const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const subpaths = Object.keys(exports).filter((subpath) => subpath !== "./package.json");
const scratch = mkdtempSync(join(tmpdir(), "vortex-peer-package-"));
const rows = [];
let wrong = 0;

try {
  const tarball = pack(scratch);
  const whole = project("whole", [tarball]);
  const lean = project("lean", [tarball], "--omit=optional");
  const isQuick = process.argv.includes("--quick");
  const compilers = TYPESCRIPTS.filter(
    (_, index) => !isQuick || index === 0 || index === TYPESCRIPTS.length - 1,
  );
  for (const problem of typeProblems(join(scratch, "types"), tarball, subpaths, compilers)) {
    wrong++;
    console.error(problem);
  }
  console.log(`compiled by TypeScript ${compilers.join(", ")}`);
  const nodes = isQuick ? [[`Node ${process.versions.node}`, process.execPath]] : installedNodes();
  for (const [name, program] of nodes) await row(name, () => consumer(whole, program));
  await row("Bun", () => consumer(whole, bin("bun")));
  await row("Deno", () => consumer(whole, bin("deno"), "run", "--allow-all", "--unstable-net"));
  await row("workerd", () => edge(whole), { quic: "-", grpc: "-" });
  const none = "Unavailable";
  await row("no condition fits: the core", () => bare(whole), {
    tcp: none,
    quic: none,
    grpc: none,
  });
  const [[name, program]] = nodes;
  await row(`${name}, no optional packages`, () => consumer(lean, program), {
    quic: "Unavailable",
  });
  await row("Bun, no optional packages", () => consumer(lean, bin("bun")), { quic: "Unavailable" });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(["| runtime |", ...COLUMNS.map((column) => ` ${column} |`)].join(""));
console.log(`| --- |${" --- |".repeat(COLUMNS.length)}`);
for (const { name, columns } of rows)
  console.log(`| ${name} |${COLUMNS.map((column) => ` ${columns[column]} |`).join("")}`);
process.exitCode = wrong === 0 ? 0 : 1;

function project(name, packages, ...options) {
  const folder = join(scratch, name);
  install(folder, packages, ...options);
  for (const file of ["consumer.mjs", "default-consumer.mjs", "edge-consumer.mjs"])
    copyFileSync(new URL(`package/${file}`, import.meta.url), join(folder, file));
  return folder;
}

/** Installs the Node versions with npm, and returns their names and programs. */
function installedNodes() {
  const platform = process.platform === "win32" ? "win" : process.platform;
  const alias = (version) => `node-${version}`;
  const folder = join(scratch, "nodes");
  install(
    folder,
    NODES.map((version) => `${alias(version)}@npm:node-${platform}-${process.arch}@${version}`),
  );
  const program = process.platform === "win32" ? "bin/node.exe" : "bin/node";
  return NODES.map((version) => [
    `Node ${version}`,
    join(folder, "node_modules", alias(version), program),
  ]);
}

/**
 * Adds a runtime to the table.
 *
 * @param expected columns whose expected value differs from "ok"
 */
async function row(name, run, expected = {}) {
  const columns = await run().catch((error) => ({ import: `failed: ${error.message}` }));
  for (const column of COLUMNS) {
    columns[column] ??= "not reached";
    if (columns[column] === (expected[column] ?? "ok")) continue;
    wrong++;
    console.error(`${name}: ${column}: ${columns[column]}`);
  }
  rows.push({ name, columns });
}

/** Runs a program that imports the package in a project, and returns its output. */
async function consumer(folder, program, ...args) {
  const { code, output } = await spawned(
    program,
    [...args, "consumer.mjs", subpaths.join(",")],
    folder,
  );
  const line = output.split("\n").find((text) => text.startsWith("{"));
  if (code !== 0 || line === undefined) throw new Error(`ended with ${code}: ${output}`);
  return JSON.parse(line);
}

/**
 * Tests workerd: a worker, bundled by the package's condition, fetches from a server of this
 * process.
 */
async function edge(folder) {
  const { code, imports } = await bundled(join(folder, "edge-consumer.mjs"), "workerd");
  const columns = {
    import: imports.every((name) => name.startsWith("cloudflare:")) ? "ok" : "needs modules",
    quic: "-",
    grpc: "-",
  };
  const { MemoryPieceStore, startServer } = await import(
    new URL("../dist/node.js", import.meta.url).href
  );
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  const server = await startServer({ store, host: "127.0.0.1", tcp: { port: 0 } });
  // Without compatibility flags, a worker has no modules of Node. `cf: false` prevents a request to
  // Cloudflare for a sample of `request.cf`.
  const worker = new Miniflare({
    modules: [{ type: "ESModule", path: "worker.js", contents: code }],
    compatibilityDate: "2026-04-01",
    host: "127.0.0.1",
    port: 0,
    cf: false,
  });
  try {
    const { host, port } = server.addresses.tcp;
    const body = JSON.stringify({ addr: `${host}:${port}`, taskId });
    const response = await fetch(await worker.ready, {
      method: "POST",
      body,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const bytes = new Uint8Array(await response.arrayBuffer());
    columns.tcp =
      Buffer.compare(bytes, content) === 0
        ? "ok"
        : `other bytes: ${new TextDecoder().decode(bytes).slice(0, 300)}`;
  } finally {
    await worker.dispose();
    await server.close();
  }
  return columns;
}

/**
 * Tests the package's root without a condition: fetches a piece over the program's own transport,
 * and checks the errors of the other protocols.
 */
async function bare(folder) {
  const { code, imports } = await bundled(join(folder, "default-consumer.mjs"));
  const file = join(folder, "default-bundle.mjs");
  writeFileSync(file, code);
  const { consume } = await import(pathToFileURL(file).href);
  const { bytes, without } = await consume(taskId, content);
  if (Buffer.compare(bytes, content) !== 0) throw new Error("other bytes than were served");
  return { import: imports.length === 0 ? "ok" : "needs modules", ...without };
}

/** Bundles a program and the installed package, resolved under some conditions, into one module. */
async function bundled(input, ...conditions) {
  const bundle = await rolldown({
    input,
    platform: "neutral",
    resolve: { conditionNames: [...conditions, "import"], mainFields: ["module", "main"] },
    external: /^cloudflare:/,
  });
  const { output } = await bundle.generate({ format: "esm", codeSplitting: false });
  await bundle.close();
  return output[0];
}

function spawned(program, args, cwd) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: TIMEOUT_MS,
      killSignal: "SIGKILL",
    });
    let output = "";
    const take = (chunk) => {
      output += chunk;
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: code ?? signal, output }));
  });
}
