// Preloaded into every Bun process of a mutation run. Replaces the file by the instrumented one,
// and records which mutants the process reached.
import { readFileSync, writeFileSync } from "node:fs";
import { plugin } from "bun";

const { file, instrumented, reachedPrefix } = JSON.parse(process.env.VORTEX_PEER_MUTATED);
const filter = new RegExp(`^${file.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`);
plugin({
  name: "mutants",
  setup(build) {
    build.onLoad({ filter }, () => ({
      contents: readFileSync(instrumented, "utf8"),
      loader: "ts",
    }));
  },
});
if (process.env.__STRYKER_ACTIVE_MUTANT__ === undefined) {
  process.on("exit", () => {
    const { static: reached = {} } = globalThis.__stryker__?.mutantCoverage ?? {};
    writeFileSync(`${reachedPrefix}-${process.pid}`, JSON.stringify(Object.keys(reached)));
  });
}
