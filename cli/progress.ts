/** How far a download is, and how it went, in words: pure functions of what the task engine tells. */
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

/** Characters of the bar, without its brackets. */
const MIN_BAR = 10;
const MAX_BAR = 40;

/**
 * One line of at most `columns` characters: percent, bar, bytes, rate, time left, parents. What does not fit is left out, from the
 * end; the bar takes the room that there is.
 */
export function progressBar(progress: TaskProgress, columns: number): string {
  const { bytes, totalBytes } = progress;
  if (totalBytes === undefined) return askingText(progress).slice(0, columns);
  const percent = `${String(percentOf(bytes, totalBytes)).padStart(3)}%`;
  const fields = fieldsOf(progress, totalBytes);
  for (let kept = fields.length; kept > 0; kept--) {
    const words = fields.slice(0, kept).join("  ");
    const room = columns - percent.length - words.length - 5;
    if (room >= MIN_BAR)
      return `${percent} [${bar(bytes, totalBytes, Math.min(room, MAX_BAR))}]  ${words}`;
  }
  return `${percent} ${fields[0]}`.slice(0, columns);
}

/** The same as one plain line, for a log. */
export function progressText(progress: TaskProgress): string {
  const { bytes, totalBytes } = progress;
  if (totalBytes === undefined) return askingText(progress);
  return `${percentOf(bytes, totalBytes)}%, ${fieldsOf(progress, totalBytes).join(", ")}`;
}

/** How a download went, in one line: with what vouched for it, and with the parents that failed, and why. */
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
  if (resumedBytes > 0) words.push(`${formatBytes(resumedBytes)} of it by an earlier run`);
  const deliverers = parents.filter(({ pieces }) => pieces > 0).length;
  if (deliverers > 0) words.push(`from ${plural(deliverers, "parent")}`);
  words.push(verifiedText(verified));
  return [
    words.join(", "),
    ...troubled(parents, "left-out", "left out"),
    ...troubled(parents, "waiting", "failing"),
  ].join("; ");
}

/** What vouched for the content. Only a digest of the whole verifies it. */
function verifiedText(verified: Verified): string {
  switch (verified.level) {
    case "whole":
      return `verified by ${verified.by === "caller" ? "--digest" : "the digest that the parents name"}`;
    case "pieces":
      return "unverified (no --digest: only pieces were checked)";
    case "none":
      return "unverified (no --digest: not all parents could be compared)";
  }
}

/** What failed, with its code, on one line. */
export function failureText({ code, message }: VortexError): string {
  return `${code}: ${oneLine(inFlags(message))}`;
}

/** `1 parent`, `2 parents`. */
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

function askingText({ patienceLeft }: TaskProgress): string {
  const asking = "asking for the length of the task";
  return patienceLeft === undefined ? asking : `${asking}: ${waitingText(patienceLeft)}`;
}

/** The download waits for its last parents. */
function waitingText(patienceLeft: number): string {
  return `no parent answers, ${formatTime(patienceLeft)} until it is given up`;
}

/** `2 parents`, and how many of them are not active. */
function parentsText(parents: readonly ParentProgress[]): string {
  const others: readonly [ParentState, string][] = [
    ["waiting", "waiting"],
    ["left-out", "left out"],
  ];
  const told = others
    .map(
      ([state, words]) =>
        [parents.filter((parent) => parent.state === state).length, words] as const,
    )
    .filter(([number]) => number > 0)
    .map(([number, words]) => `${number} ${words}`);
  return `${plural(parents.length, "parent")}${told.length === 0 ? "" : ` (${told.join(", ")})`}`;
}

function bar(bytes: number, totalBytes: number, width: number): string {
  const full = totalBytes === 0 ? width : Math.floor((bytes / totalBytes) * width);
  return "#".repeat(full).padEnd(width, ".");
}

/** The parents in a state, each with what went wrong there; nothing when there is none. */
function troubled(parents: readonly ParentProgress[], state: ParentState, words: string): string[] {
  const told = parents
    .filter((parent) => parent.state === state)
    .map(({ parent, reasons }) => `${parent} (${reasons.map(failureText).join("; ")})`);
  return told.length === 0 ? [] : [`${words}: ${told.join(", ")}`];
}
