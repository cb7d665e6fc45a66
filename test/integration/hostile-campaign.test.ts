/** Short run of `npm run hostile`: a few tries of each attack and each kind of fault. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { it } from "node:test";
import { attacks } from "../../bench/hostile/attacker.ts";
import { protocols } from "../../src/transport/protocol.ts";
import { skipped } from "../support/fixture.ts";
import { runtimeName } from "../support/fixtures.ts";
import { faultGroups } from "../support/hostile-vortex.ts";
import { root, runner, runToEnd } from "../support/run.ts";

const testOptions = { timeout: 300_000 };
const short = ["--exchanges", "800", "--rounds", "1", "--together", "--seed", "1"];

async function campaign(): Promise<void> {
  const program = join(root, "bench/hostile.ts");
  const { code, out, err } = await runToEnd([
    ...runner,
    program,
    ...short,
    "--runtime",
    runtimeName,
  ]);
  assert.equal(code, 0, out + err);
  assert.match(out, /^no wrong byte, no crash, no unhandled rejection, no leak$/m);
  const rows = out.split("\n").filter((line) => /^\| [^-]/.test(line));
  assert.equal(rows.length - 1, attacks.length + protocols.length * faultGroups.length);
  assert.match(out, /: [1-9][\d,]* exchanges, [1-9][\d,]* of them requests or answers, /);
}

const name = "npm run hostile, a hundredth of it: right bytes or a documented code, and no leak";
// Deno's own QUIC and its HTTP/2 are attacked by `hostile-client-quic.test.ts` and
// `hostile-client-grpc.test.ts`.
if (runtimeName === "deno")
  skipped(name, "two runtimes suffice for a test of a minute of CPU time", campaign);
else it(name, testOptions, campaign);

it("npm run hostile reports invalid options in one line, and fails", testOptions, async () => {
  const { code, err } = await runToEnd([
    ...runner,
    join(root, "bench/hostile.ts"),
    "--exchanges",
    "none",
  ]);
  assert.equal(code, 1);
  assert.match(err, /^hostile: --exchanges none: expected a positive number$/m);
});
