import type { UserConfig } from "tsdown";

const config: UserConfig = {
  entry: {
    index: "src/index.ts",
    node: "adapters/node.ts",
    bun: "adapters/bun.ts",
    deno: "adapters/deno.ts",
    workers: "adapters/workers.ts",
    cli: "adapters/cli/main.ts",
  },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: { oxc: true },
  sourcemap: true,
  deps: { neverBundle: [/^node:/, /^cloudflare:/] },
};

export default config;
