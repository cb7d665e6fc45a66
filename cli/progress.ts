/** Formats the progress and the summary of a download as text. Pure functions. */
import { oneLine, type VortexError } from "../src/errors.ts";
import type {
  ParentProgress,
  ParentState,
  TaskProgress,
  TaskReport,
  Verified,
} from "../src/task/task.ts";
import { inFlags } from "./flag-words.ts";
import { formatBytes, formatRate, formatShare, formatTime, percentOf } from "./format.ts";

/** Width of the progress bar in columns, without its brackets. */
const MIN_BAR_COLUMNS = 10;
const MAX_BAR_COLUMNS = 40;

/**
 * Formats the progress line of a terminal, at most `columns` wide: percent, bar, bytes, rate, time
 * left, parents. Fields that do not fit are omitted from the end. The bar fills the remaining
 * width.
 */
export function progressBar(progress: TaskProgress, columns: number): string {
  const { bytes, totalBytes } = progress;
  if (totalBytes === undefined) return queryingText(progress).slice(0, columns);
  const percent = `${String(percentOf(bytes, totalBytes)).padStart(3)}%`;
  const fields = fieldsOf(progress, totalBytes);
  for (let kept = fields.length; kept > 0; kept--) {
    const words = fields.slice(0, kept).join("  ");
    const room = columns - percent.length - words.length - 5;
    if (room >= MIN_BAR_COLUMNS)
      return `${percent} [${bar(bytes, totalBytes, Math.min(room, MAX_BAR_COLUMNS))}]  ${words}`;
  }
  return `${percent} ${fields[0]}`.slice(0, columns);
}

/** Formats the progress as one line without a bar, for logs. */
export function progressText(progress: TaskProgress): string {
  const { bytes, totalBytes } = progress;
  if (totalBytes === undefined) return queryingText(progress);
  return `${percentOf(bytes, totalBytes)}%, ${fieldsOf(progress, totalBytes).join(", ")}`;
}

/**
 * Formats the summary of a finished download as one line. It has size, time, rate, verification,
 * and the failed parents with their errors.
 */
export function summaryText({
  bytes,
  resumedBytes,
  duration,
  parents,
  verified,
}: TaskReport): string {
  const seconds = Math.max(1, duration) / 1000;
  const words = [`fetched ${formatBytes(bytes)} in ${seconds.toFixed(1)} s`];
  if (resumedBytes < bytes) words.push(formatRate((bytes - resumedBytes) / seconds));
  if (resumedBytes > 0) words.push(`${formatBytes(resumedBytes)} from an earlier run`);
  const sources = parents.filter(({ pieces }) => pieces > 0).length;
  if (sources > 0) words.push(`from ${plural(sources, "parent")}`);
  words.push(verifiedText(verified));
  return [
    words.join(", "),
    ...parentsInState(parents, "excluded", "excluded"),
    ...parentsInState(parents, "waiting", "failing"),
  ].join("; ");
}

/** Formats the verification level. Only a digest of the whole content counts as verified. */
function verifiedText(verified: Verified): string {
  switch (verified.level) {
    case "whole":
      return `verified by ${verified.by === "caller" ? "--digest" : "the parents' digest"}`;
    case "pieces":
      return "unverified (no --digest: only pieces were checked)";
    case "none":
      return "unverified (no --digest: some parents could not be compared)";
  }
}

/**
 * Formats an error as one line: its code and message.
 *
 * @param parent address that the text around the error names already, and the error need not
 */
export function failureText({ code, message }: VortexError, parent?: string): string {
  const text =
    parent === undefined
      ? message
      : ["to", "at", "with"].reduce(
          (shorter, word) => shorter.replace(` ${word} ${parent}: `, ": "),
          message,
        );
  return `${code}: ${oneLine(inFlags(text))}`;
}

/** Formats the errors of a parent, after text that names the parent. */
export function reasonsText(reasons: readonly VortexError[], parent: string): string {
  return reasons.map((reason) => failureText(reason, parent)).join("; ");
}

/** Formats a count with its noun: `1 parent`, `2 parents`. */
function plural(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function fieldsOf(progress: TaskProgress, totalBytes: number): [string, ...string[]] {
  const { bytes, rate, timeLeft, patienceLeft, parents } = progress;
  const fields: [string, ...string[]] = [formatShare(bytes, totalBytes)];
  if (patienceLeft !== undefined)
    return [...fields, waitingText(patienceLeft), parentsText(parents)];
  fields.push(formatRate(rate));
  if (timeLeft !== undefined) fields.push(`${formatTime(timeLeft)} left`);
  if (parents.length > 0) fields.push(parentsText(parents));
  return fields;
}

function queryingText({ patienceLeft }: TaskProgress): string {
  const querying = "querying the task length";
  return patienceLeft === undefined ? querying : `${querying}: ${waitingText(patienceLeft)}`;
}

/** Formats the remaining time until a download without responding parents fails. */
function waitingText(patienceLeft: number): string {
  return `no parent responds, giving up in ${formatTime(patienceLeft)}`;
}

/** Formats the number of parents, with the inactive ones: `4 parents (1 waiting, 1 excluded)`. */
function parentsText(parents: readonly ParentProgress[]): string {
  const states: readonly ParentState[] = ["waiting", "excluded"];
  const listed = states
    .map((state) => [parents.filter((parent) => parent.state === state).length, state] as const)
    .filter(([number]) => number > 0)
    .map(([number, state]) => `${number} ${state}`);
  return `${plural(parents.length, "parent")}${listed.length === 0 ? "" : ` (${listed.join(", ")})`}`;
}

function bar(bytes: number, totalBytes: number, width: number): string {
  const full = totalBytes === 0 ? width : Math.floor((bytes / totalBytes) * width);
  return "#".repeat(full).padEnd(width, ".");
}

/**
 * Lists the parents in a state with their errors, after the heading `words`. Empty without such
 * parents.
 */
function parentsInState(
  parents: readonly ParentProgress[],
  state: ParentState,
  words: string,
): string[] {
  const listed = parents
    .filter((parent) => parent.state === state)
    .map(({ parent, reasons }) => `${parent} (${reasonsText(reasons, parent)})`);
  return listed.length === 0 ? [] : [`${words}: ${listed.join(", ")}`];
}
