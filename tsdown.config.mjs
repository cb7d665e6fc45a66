// One entry for each subpath of package.json, and the command line. scripts/check-package.mjs
// compares this list with package.json.
/** @type {import("tsdown").UserConfig} */
const config = {
  entry: {
    core: "entry/core.ts",
    tasks: "entry/tasks.ts",
    config: "entry/config.ts",
    ids: "entry/ids.ts",
    node: "entry/node.ts",
    bun: "entry/bun.ts",
    deno: "entry/deno.ts",
    workers: "entry/workers.ts",
    quiche: "entry/quiche.ts",
    "node-quic": "entry/node-quic.ts",
    "deno-quic": "entry/deno-quic.ts",
    tcp: "entry/tcp.ts",
    grpc: "entry/grpc.ts",
    files: "entry/files.ts",
    opentelemetry: "entry/opentelemetry.ts",
    cli: "cli/main.ts",
  },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: { oxc: true },
  sourcemap: true,
  // Docstrings stay in the .d.ts; the source maps have the sources. In the .js they only take time
  // to load, and bytes of bundles that are not minified.
  outputOptions: { comments: { legal: true, annotation: true, jsdoc: false } },
  deps: { neverBundle: [/^node:/, /^cloudflare:/] },
};

export default config;
