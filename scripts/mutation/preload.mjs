// Loaded into every Bun process of a mutation run. Puts the instrumented file in the place of the
// file, and records which mutants the process reached.
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
