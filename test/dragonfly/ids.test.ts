/** Ids of tasks that a real dfget creates at real dfdaemons. */
import assert from "node:assert/strict";
import { failing, run } from "../support/cli.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import type { Daemon, Lab } from "./lab.ts";
import { describeVersions } from "./suite.ts";

const LENGTH = 5_000_000;

/** Rest of each URL after its first segment. dfget takes a slash at the end for a directory. */
const rests = [
  "/plain",
  "/unsorted?b=2&a=1",
  "/dir/../file?z=9&X-Amz-Signature=s&b=x*y~&a=1;c=3&b=1",
  "/caret^/é?q=a%20b&Expires=1#fragment",
];

describeVersions<{ readonly lab: Lab; readonly daemon: Daemon }>(
  (version) => `ids of dfdaemon ${version}`,
  async (lab) => ({ lab, daemon: await lab.startDaemon({ name: "seed", seed: true }) }),
  (cases, version) => {
    const options = version === "1.5.10" ? [] : ["--old"];
    const name = ["id url", ...options].join(" ");
    cases.it(`are those that ${name} prints`, async ({ lab, daemon }) => {
      const { createDownloader } = await runtimeEntry();
      await using downloader = createDownloader({ protocol: "tcp" });
      for (const rest of rests) {
        const task = await lab.publish(LENGTH, { rest });
        await daemon.fetch(task, lab.file());
        const { out } = await run(failing("Internal"), ["id", "url", ...options, task.url]);
        const parents = [{ apiAddr: daemon.addresses.grpc }];
        const stream = downloader.streamTask({ taskId: out.text.trimEnd(), parents, patience: 0 });
        assert.equal((await stream.bytes()).length, LENGTH, task.url);
      }
    });
  },
  ["1.4.8", "1.5.2", "1.5.10"],
);
