import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  formatBytes,
  formatRate,
  formatShare,
  formatTime,
  percentOf,
} from "../../../cli/format.ts";
import { progressBar, progressText, summaryText } from "../../../cli/progress.ts";
import { VortexError } from "../../../src/errors.ts";
import type {
  ParentProgress,
  ParentState,
  TaskProgress,
  TaskReport,
} from "../../../src/task/task.ts";

const parentOf = (
  parent: string,
  state: ParentState,
  ...reasons: VortexError[]
): ParentProgress => ({
  parent,
  state,
  rate: 0,
  bytes: 0,
  pieces: state === "active" ? 1 : 0,
  errors: reasons.length,
  reasons,
});

const progress: TaskProgress = {
  bytes: 1_234_000_000,
  totalBytes: 2_936_000_000,
  pieces: 294,
  totalPieces: 700,
  resumedBytes: 0,
  rate: 48_300_000,
  timeLeft: 35_238,
  paused: false,
  patienceLeft: undefined,
  parents: [
    parentOf("a:1", "active"),
    parentOf("b:1", "active"),
    parentOf("c:1", "waiting"),
    parentOf("d:1", "excluded"),
  ],
};

const report: TaskReport = {
  taskId: "ab".repeat(32),
  bytes: 268_435_456,
  pieces: 64,
  resumedBytes: 0,
  resumedPieces: 0,
  verified: { level: "pieces" },
  duration: 5200,
  parents: [parentOf("a:1", "active")],
};

describe("the bar of vortex-peer get", () => {
  it("has percent, bytes, rate, time left and parents, and a bar that fills the width", () => {
    const words = "1.2 of 2.9 GB  48.3 MB/s  0:36 left  4 parents (1 waiting, 1 excluded)";
    assert.equal(progressBar(progress, 200), ` 42% [${"#".repeat(16)}${".".repeat(24)}]  ${words}`);
    assert.equal(progressBar(progress, 99), ` 42% [${"#".repeat(8)}${".".repeat(12)}]  ${words}`);
  });

  it("shows the time until it gives up, instead of rate and time left, when no parent responds", () => {
    const words =
      "1.2 of 2.9 GB  no parent responds, giving up in 0:42  4 parents (1 waiting, 1 excluded)";
    assert.match(
      progressBar({ ...progress, patienceLeft: 42_000 }, 200),
      new RegExp(`  ${words.replace(/[()]/g, "\\$&")}$`),
    );
    assert.equal(
      progressText({ ...progress, totalBytes: undefined, patienceLeft: 42_000 }),
      "querying the task length: no parent responds, giving up in 0:42",
    );
  });

  it("omits fields that do not fit, and never wraps", () => {
    assert.match(
      progressBar(progress, 60),
      /^ 42% \[[#.]{16}\] {2}1\.2 of 2\.9 GB {2}48\.3 MB\/s {2}0:36 left$/,
    );
    assert.match(progressBar(progress, 50), /^ 42% \[[#.]+\] {2}1\.2 of 2\.9 GB {2}48\.3 MB\/s$/);
    assert.match(progressBar(progress, 40), /^ 42% \[[#.]+\] {2}1\.2 of 2\.9 GB$/);
    assert.equal(progressBar(progress, 20), " 42% 1.2 of 2.9 GB");
    for (let columns = 0; columns < 150; columns++) {
      assert.ok(progressBar(progress, columns).length <= columns, `${columns} columns`);
    }
  });

  it("is right at 0 %, at 100 %, and while the length is unknown", () => {
    assert.match(
      progressBar({ ...progress, bytes: 0, rate: 0, timeLeft: undefined, parents: [] }, 80),
      /^ {2}0% \[\.+\] {2}0\.0 of 2\.9 GB {2}0 B\/s$/,
    );
    assert.match(
      progressBar({ ...progress, bytes: 2_936_000_000, timeLeft: 0 }, 200),
      /^100% \[#{40}\] .* 0:00 left/,
    );
    assert.match(
      progressBar({ ...progress, bytes: 0, totalBytes: 0, timeLeft: 0 }, 200),
      /^100% \[#{40}\] {2}0 of 0 B /,
    );
    assert.equal(
      progressBar({ ...progress, totalBytes: undefined }, 80),
      "querying the task length",
    );
    assert.equal(progressText({ ...progress, totalBytes: undefined }), "querying the task length");
  });

  it("is a line without a bar when there is no terminal", () => {
    assert.equal(
      progressText(progress),
      "42%, 1.2 of 2.9 GB, 48.3 MB/s, 0:36 left, 4 parents (1 waiting, 1 excluded)",
    );
  });
});

describe("the summary of vortex-peer get", () => {
  it("has bytes, time, rate and parents", () => {
    assert.equal(
      summaryText(report),
      "fetched 268.4 MB in 5.2 s, 51.6 MB/s, from 1 parent, unverified (no --digest: only pieces were checked)",
    );
    assert.equal(
      summaryText({
        ...report,
        resumedBytes: 134_217_728,
        parents: [...report.parents, parentOf("b:1", "active")],
      }),
      "fetched 268.4 MB in 5.2 s, 25.8 MB/s, 134.2 MB from an earlier run, from 2 parents, unverified (no --digest: only pieces were checked)",
    );
  });

  it("names the digest that verified the content, and says `unverified` without one of the whole", () => {
    const digest = `sha256:${"ab".repeat(32)}`;
    const ends = [
      [{ level: "whole", digest, by: "caller" }, "verified by --digest"],
      [{ level: "whole", digest, by: "parents" }, "verified by the parents' digest"],
      [{ level: "pieces" }, "unverified (no --digest: only pieces were checked)"],
      [{ level: "none" }, "unverified (no --digest: some parents could not be compared)"],
    ] as const;
    for (const [verified, words] of ends) {
      assert.equal(
        summaryText({ ...report, verified }),
        `fetched 268.4 MB in 5.2 s, 51.6 MB/s, from 1 parent, ${words}`,
      );
    }
  });

  it("has no rate and no parents when nothing was left to fetch", () => {
    const idle = { ...parentOf("a:1", "active"), pieces: 0 };
    assert.equal(
      summaryText({ ...report, resumedBytes: report.bytes, parents: [idle] }),
      "fetched 268.4 MB in 5.2 s, 268.4 MB from an earlier run, unverified (no --digest: only pieces were checked)",
    );
    assert.equal(
      summaryText({ ...report, bytes: 0, parents: [idle] }),
      "fetched 0 B in 5.2 s, unverified (no --digest: only pieces were checked)",
    );
  });

  it("lists the parents that are excluded or failing, each with its errors on one line", () => {
    const refused = new VortexError("ConnectionRefused", "no\nlistener");
    const wrong = new VortexError("DigestMismatch", "the content is wrong");
    assert.equal(
      summaryText({
        ...report,
        parents: [
          ...report.parents,
          parentOf("b:1", "excluded", refused, wrong),
          parentOf("c:1", "waiting", refused),
          parentOf("d:1", "excluded", wrong),
        ],
      }),
      "fetched 268.4 MB in 5.2 s, 51.6 MB/s, from 1 parent, unverified (no --digest: only pieces were checked); excluded: " +
        "b:1 (ConnectionRefused: no listener; DigestMismatch: " +
        "the content is wrong), d:1 (DigestMismatch: the content is wrong); failing: c:1 (ConnectionRefused: no listener)",
    );
  });

  it("has a finite rate for a download that took no time", () => {
    assert.match(summaryText({ ...report, duration: 0 }), /in 0\.0 s, [0-9.]+ GB\/s/);
  });
});

describe("number formats", () => {
  it("bytes have units of powers of 1000", () => {
    assert.deepEqual([0, 999, 1000, 1_949_999, 2e9, 3.21e12].map(formatBytes), [
      "0 B",
      "999 B",
      "1.0 kB",
      "1.9 MB",
      "2.0 GB",
      "3.2 TB",
    ]);
    assert.equal(formatShare(12, 268_435_456), "0.0 of 268.4 MB");
    assert.equal(formatRate(1234.5), "1.2 kB/s");
  });

  it("times range from seconds to days", () => {
    assert.deepEqual(
      [0, 1, 35_000, 60_000, 3_599_001, 3_723_000, 86_400_000 * 3 + 3_600_000 * 4].map(formatTime),
      ["0:00", "0:01", "0:35", "1:00", "1:00:00", "1:02:03", "3d 4h"],
    );
  });

  it("percentages are whole numbers, and 100 only when complete", () => {
    assert.deepEqual(
      [percentOf(0, 3), percentOf(999, 1000), percentOf(3, 3), percentOf(0, 0)],
      [0, 99, 100, 100],
    );
  });
});
