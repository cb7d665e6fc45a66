/** Results of a campaign, as Markdown tables. */
import { readFile, writeFile } from "node:fs/promises";
import { quantile } from "../statistics.ts";
import type { Outcomes } from "./attack.ts";
import type { ClientStats } from "./honest.ts";

/** Results of an attack or a group of faults over one protocol, in all rounds. */
export interface Row {
  readonly name: string;
  readonly over: string;
  readonly unit: string;
  tries: number;
  outcomes: Record<string, number>;
  /** Maximum resident memory of the victim above its level before the first attack, in bytes. */
  growth: number;
  /** Times of the honest client's pieces in ms, with and without the attack. */
  readonly during: number[];
  readonly without: number[];
  failures: Record<string, number>;
}

/** Results of a campaign against one runtime. */
export interface Campaign {
  readonly title: string;
  readonly seed: number;
  readonly seconds: number;
  readonly rows: readonly Row[];
}

/** Adds the counts of `more` to `sum`. */
export function add(sum: Record<string, number>, more: Outcomes): void {
  for (const [name, count] of Object.entries(more)) sum[name] = (sum[name] ?? 0) + count;
}

/** Adds results of the honest client, with or without the attack. */
export function addClientStats(
  row: Row,
  clientStats: ClientStats | undefined,
  when: "during" | "without",
): void {
  row[when].push(...(clientStats?.times ?? []));
  add(row.failures, clientStats?.failures ?? {});
}

/** Returns the tables of all campaigns. */
export function markdownOf(campaigns: readonly Campaign[], command: string): string {
  const parts = campaigns.map(({ title, seed, seconds, rows }) => {
    const total = rows.reduce((sum, { tries }) => sum + tries, 0);
    const requests = rows
      .filter(({ unit }) => unit === "request")
      .reduce((sum, { tries }) => sum + tries, 0);
    const counted = `${number(total)} exchanges, ${number(requests)} of them requests or answers`;
    return `**${title}**: ${counted}, in ${Math.round(seconds)} s, seed ${seed}.\n\n${tableOf(rows)}`;
  });
  return [...parts, `\`${command}\``].join("\n\n");
}

/**
 * Replaces the text between the markers of a page.
 *
 * @throws `Error` if the page has no markers
 */
export async function writeInto(file: URL, text: string): Promise<void> {
  const page = await readFile(file, "utf8");
  const marked = /(<!-- hostile:start -->\n)[\s\S]*(\n<!-- hostile:end -->)/;
  if (!marked.test(page)) throw new Error("the page has no marks for the table");
  await writeFile(
    file,
    page.replace(marked, (_all, before: string, after: string) => before + text + after),
  );
}

function tableOf(rows: readonly Row[]): string {
  const head = [
    "attack or fault",
    "protocol",
    "tries",
    "result",
    "max. memory above start, MB",
    "honest client, ms per piece, with / without attack",
  ];
  const lines = rows.map(
    ({ name, over, unit, tries, outcomes, growth, during, without, failures }) => [
      name,
      over,
      `${number(tries)} ${unit}s`,
      listOf(outcomes),
      String(Math.round(growth / 1e6)),
      [`${median(during)} / ${median(without)}`, listOf(failures)]
        .filter((text) => text !== "")
        .join("; "),
    ],
  );
  return [head, head.map(() => "---"), ...lines]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");
}

/** Lists names with counts, most frequent first. A single name has no count. */
function listOf(counts: Outcomes): string {
  const entries = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .sort(([, a], [, b]) => b - a);
  if (entries.length === 1 && entries[0] !== undefined) return entries[0][0];
  return entries.map(([name, count]) => `${name} ${number(count)}`).join(", ");
}

function median(times: readonly number[]): string {
  if (times.length === 0) return "none";
  return quantile(
    times.toSorted((a, b) => a - b),
    0.5,
  ).toFixed(1);
}

function number(value: number): string {
  return value.toLocaleString("en");
}
