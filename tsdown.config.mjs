// One entry for each subpath of package.json, which scripts/check-package.mjs compares with this list, and the command line.
/** @type {import("tsdown").UserConfig} */
const config = {
  entry: {
    core: "src/entry/core.ts",
    tasks: "src/entry/tasks.ts",
    config: "src/entry/config.ts",
    ids: "src/ids.ts",
    node: "adapters/node.ts",
    bun: "adapters/bun.ts",
    deno: "adapters/deno.ts",
    workers: "adapters/workers.ts",
    quiche: "adapters/quiche.ts",
    "node-quic": "adapters/node-quic.ts",
    "deno-quic": "adapters/deno-quic.ts",
    tcp: "adapters/tcp.ts",
    grpc: "adapters/grpc.ts",
    files: "adapters/files.ts",
    opentelemetry: "adapters/opentelemetry.ts",
    cli: "cli/main.ts",
  },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: { oxc: true },
  sourcemap: true,
  deps: { neverBundle: [/^node:/, /^cloudflare:/] },
};

export default config;
