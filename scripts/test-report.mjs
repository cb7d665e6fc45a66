// Parser of the JUnit reports of a test run, the one format that the runners of all three runtimes
// write.

import { stripVTControlCharacters } from "node:util";

const FAILURE_LINES = 25;

// Node does not escape ">" in an attribute.
const TAG = /<((?:testsuite|testcase|failure|error|skipped)\b(?:[^>"]|"[^"]*")*)>|<\/(testsuite)>/g;

/**
 * Returns the test cases of a report, in order.
 *
 * @returns {{ suite: string, name: string, outcome: "passed" | "failed" | "skipped", failure?:
 *   string[] }[]}
 */
export function casesOf(xml) {
  const cases = [];
  const suites = [];
  for (const match of xml.matchAll(TAG)) {
    const [, opening, closing] = match;
    if (closing !== undefined) {
      suites.pop();
      continue;
    }
    const [tag] = /^\w+/.exec(opening);
    if (tag === "testsuite") {
      if (!opening.endsWith("/")) suites.push(attribute(opening, "name"));
    } else if (tag === "testcase") {
      const skipped = /status="(skipped|ignored)"/.test(opening);
      const name = attribute(opening, "name");
      // Bun and Deno add a suite for each file. Deno names a case by its suite and itself.
      const suite = suites.findLast((one) => !/\.[jt]s$/.test(one));
      const cut = suite === undefined ? name.indexOf(" > ") : -1;
      cases.push({
        suite: cut < 0 ? (suite ?? "") : name.slice(0, cut),
        name: cut < 0 ? name : name.slice(cut + 3),
        outcome: skipped ? "skipped" : "passed",
      });
    } else {
      const last = cases.at(-1);
      if (tag !== "skipped") {
        last.outcome = "failed";
        last.failure ??= failureOf(xml, match);
      } else if (last.outcome === "passed") last.outcome = "skipped";
    }
  }
  // Deno reports a suite as another case, which fails with one of its cases, or by itself.
  const suiteNames = new Set(
    cases.filter(({ outcome }) => outcome === "failed").map(({ suite }) => suite),
  );
  const names = new Set(cases.map(({ suite }) => suite));
  return cases.filter(({ suite, name, outcome }) => {
    if (suite !== "" || !names.has(name)) return true;
    return outcome === "failed" && !suiteNames.has(name);
  });
}

/** Lists each failed case with its message, for the end of a long log. */
export function failureList(runs) {
  const lines = [];
  for (const [runtime, cases] of runs) {
    for (const { suite, name, outcome, failure } of cases) {
      if (outcome !== "failed") continue;
      lines.push(`  ${runtime}: ${suite === "" ? name : `${suite} > ${name}`}`);
      for (const line of failure ?? []) lines.push(`    ${line}`);
    }
  }
  return lines;
}

/** Counts passed, failed and skipped cases. */
export function countsOf(cases) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const { outcome } of cases) counts[outcome]++;
  return counts;
}

/**
 * Returns a table for each runtime with the results of each transport by topic. Suites named
 * `transport: topic` count if several transports have the topic.
 *
 * @param {Map<string, ReturnType<typeof casesOf>>} runs the cases of each runtime
 */
export function complianceTables(runs) {
  const transportsOf = new Map();
  for (const cases of runs.values()) {
    for (const { suite } of cases) {
      const [, transport, topic] = /^([\w-]+): (.+)$/.exec(suite) ?? [];
      if (topic !== undefined)
        transportsOf.set(topic, (transportsOf.get(topic) ?? new Set()).add(transport));
    }
  }
  const topics = [...transportsOf]
    .filter(([, transports]) => transports.size > 1)
    .map(([topic]) => topic);
  const tables = [];
  for (const [runtime, cases] of runs) {
    const transports = [...new Set(topics.flatMap((topic) => [...transportsOf.get(topic)]))].filter(
      (transport) => cases.some(({ suite }) => suite.startsWith(`${transport}: `)),
    );
    if (transports.length === 0) continue;
    const rows = topics.map((topic) => [
      topic,
      ...transports.map((transport) =>
        cellOf(cases.filter(({ suite }) => suite === `${transport}: ${topic}`)),
      ),
    ]);
    tables.push(aligned([[`${runtime}: compliance`, ...transports], ...rows]));
  }
  return tables;
}

/**
 * Lists skipped tests by the reason in their titles, `… [gap: why]`. Tests with the same reason
 * share a line.
 */
export function gapList(runs) {
  const reasons = new Map();
  for (const [runtime, cases] of runs) {
    for (const { suite, name, outcome } of cases) {
      const [, what, , reason] = /^(.*) \[(gap|skipped): (.*)\]$/s.exec(name) ?? [];
      if (outcome !== "skipped") continue;
      const tests = reasons.get(reason ?? "no reason is given") ?? new Map();
      const test = suite === "" ? (what ?? name) : `${suite} > ${what ?? name}`;
      tests.set(test, [...(tests.get(test) ?? []), runtime]);
      reasons.set(reason ?? "no reason is given", tests);
    }
  }
  const lines = [];
  for (const [reason, tests] of reasons) {
    lines.push(`  ${reason}`);
    for (const [test, runtimes] of tests) lines.push(`    ${runtimes.join(", ")}: ${test}`);
  }
  return lines;
}

function cellOf(cases) {
  if (cases.length === 0) return "";
  const { passed, failed, skipped } = countsOf(cases);
  const gaps = skipped === 0 ? "" : `${skipped} gap${skipped === 1 ? "" : "s"}`;
  return [passed === 0 ? "" : String(passed), failed === 0 ? "" : `${failed} FAILED`, gaps]
    .filter(Boolean)
    .join(", ");
}

function aligned(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)) + 2);
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]))
      .join("")
      .trimEnd(),
  );
}

/**
 * Returns the first lines of a failure. Bun and Node have them in the element, Deno has the message
 * in an attribute too.
 */
function failureOf(xml, { 0: whole, 1: opening, index }) {
  const start = index + whole.length;
  const inside = opening.endsWith("/") ? "" : xml.slice(start, xml.indexOf("</", start));
  const text =
    inside.trim() === ""
      ? attribute(opening, "message")
      : decoded(inside.replace(/<!\[CDATA\[|\]\]>/g, ""));
  return stripVTControlCharacters(text).trim().split("\n").slice(0, FAILURE_LINES);
}

function attribute(tag, name) {
  const [, value = ""] = new RegExp(`\\b${name}="([^"]*)"`).exec(tag) ?? [];
  return decoded(value);
}

function decoded(value) {
  const entities = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
  return value.replace(/&(?:#(x?)([0-9a-f]+)|(\w+));/gi, (whole, hex, code, entity) =>
    entity === undefined
      ? String.fromCodePoint(Number.parseInt(code, hex ? 16 : 10))
      : (entities[entity] ?? whole),
  );
}
