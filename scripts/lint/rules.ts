// Language rules of this repository that a program can check, see "Language" in CONTRIBUTING.md.
// Pure: text in, violations out.

/** Maximum width of a line of prose, in columns. */
export const MAX_COLUMNS: number = 100;
/** Maximum length of a sentence in a docstring, in words. */
export const MAX_WORDS: number = 25;

/** First words that start a clause instead of a verb or a noun. */
const CLAUSE_STARTS = new Set(
  [
    "What",
    "Who",
    "Whom",
    "Whose",
    "Whoever",
    "Whatever",
    "How",
    "Whether",
    "Where",
    "Of",
    "As",
    "By",
    "Told",
  ].map((word) => word.toLowerCase()),
);

/** Banned phrases, each with a plainer form. */
const BANNED = (
  [
    ["whoever", "the noun: the peer, the caller"],
    ["whom", "the noun"],
    ["who has", "a participle or a noun"],
    ["anew", "again"],
    ["be had", "be available"],
    ["(?:is|are|was|were) told", "receives, reports"],
    ["(?:tell|tells|told) of", "reports"],
    ["but for", "except"],
    ["of (?:its|their|our|your|my) own", "separate"],
    ["nobody", "no peer, no listener, no caller"],
    ["he|him|his", "it, its"],
    ["as stock peers", "like dfdaemon"],
    ["that is to be", "the participle"],
  ] as const
).map(([phrase, instead]) => ({
  pattern: new RegExp(`\\b(?:${phrase.replaceAll(" ", "\\s+")})\\b`, "gi"),
  instead,
}));

/** Violation of a rule at one place. */
export interface Violation {
  /** Line number, from 1. */
  readonly line: number;
  readonly rule:
    | "docstring-start"
    | "sentence-length"
    | "banned-phrase"
    | "line-width"
    | "error-form";
  readonly message: string;
}

/**
 * Checks one docstring: its first word and the length of its sentences.
 *
 * @param text docstring without comment markers
 * @param line number of its first line
 */
export function checkDocstring(text: string, line: number): Violation[] {
  const violations: Violation[] = [];
  const prose = withoutCode(text);
  const lineAt = (offset: number): number => line + prose.slice(0, offset).split("\n").length - 1;
  const [first = ""] = prose.trimStart().split(/[^\p{L}]/u, 1);
  if (CLAUSE_STARTS.has(first.toLowerCase())) {
    violations.push({
      line: lineAt(prose.search(/\S/)),
      rule: "docstring-start",
      message: `begins with "${first}": begin with a verb or a noun`,
    });
  }
  for (const { sentence, offset } of sentencesOf(prose)) {
    const words = sentence.split(/\s+/).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
    if (words <= MAX_WORDS) continue;
    violations.push({
      line: lineAt(offset),
      rule: "sentence-length",
      message: `${words} words in a sentence, at most ${MAX_WORDS}`,
    });
  }
  return violations;
}

/**
 * Checks prose for banned phrases: a comment, a text in the code, a paragraph.
 *
 * @param line number of its first line
 */
export function checkPhrases(text: string, line: number): Violation[] {
  // A phrase may span two lines. Replacements keep all positions.
  const flat = withoutCode(text).replace(/\n\s*(?:\*|\/\/|>)?/g, (broken) =>
    " ".repeat(broken.length),
  );
  return BANNED.flatMap(({ pattern, instead }) =>
    [...flat.matchAll(pattern)].map((match) => ({
      line: line + text.slice(0, match.index).split("\n").length - 1,
      rule: "banned-phrase",
      message: `"${match[0].replace(/\s+/g, " ")}": write ${instead}`,
    })),
  );
}

/**
 * Checks the width of lines of prose. Lines with an unbreakable URL are exempt.
 *
 * @param line number of the first of them
 */
export function checkWidth(lines: readonly string[], line: number): Violation[] {
  return lines.flatMap((text, index) =>
    [...text].length <= MAX_COLUMNS || /\w:\/\/\S/.test(text)
      ? []
      : [
          {
            line: line + index,
            rule: "line-width",
            message: `${[...text].length} columns, at most ${MAX_COLUMNS}`,
          },
        ],
  );
}

/**
 * Checks the subject of a commit message: `area: what changes`, imperative, at most 72 columns.
 * Returns the problems found.
 */
export function checkSubject(message: string): string[] {
  const [subject = ""] = message.split("\n", 1);
  if (/^(?:Merge|Revert) /.test(subject)) return [];
  const [, area, what] = /^([\w./, -]+): (.+)$/.exec(subject) ?? [];
  if (area === undefined || what === undefined)
    return [`expected "area: what changes", got "${subject}"`];
  const problems = [];
  const [verb = ""] = what.split(/\s/, 1);
  if (
    /^(?:an?|the|this|that|what|who|whoever|no|all|each|every|nothing)$/i.test(verb) ||
    /(?:ed|ing)$/.test(verb)
  ) {
    problems.push(`expected an imperative after "${area}:", got "${verb}"`);
  }
  if ([...subject].length > 72)
    problems.push(`expected at most 72 columns, got ${[...subject].length}`);
  if (subject.endsWith(".")) problems.push("expected no full stop at the end");
  return problems;
}

/** Blanks code in backquotes, targets of links and names of tags, and keeps every position. */
function withoutCode(text: string): string {
  const blank = (match: string): string => match.replace(/[^\n]/g, " ");
  return text
    .replace(/```[\s\S]*?```/g, blank)
    .replace(/`[^`\n]*`/g, (match) => `x${blank(match.slice(1))}`)
    .replace(/\{@link\s+([^}]*)\}/g, (match) => `x${blank(match.slice(1))}`)
    .replace(/\b\w+:\/\/\S+/g, blank);
}

/**
 * Splits text into sentences. A sentence ends at a full stop, a colon before a list, an empty line
 * or a tag.
 */
function sentencesOf(text: string): { readonly sentence: string; readonly offset: number }[] {
  const found: { readonly sentence: string; readonly offset: number }[] = [];
  let offset = 0;
  for (const part of text.split(
    /((?<=[.!?:;)])\s+(?=[\p{Lu}\p{N}"-])|\n\s*\n|\n\s*(?=@\w)|\n\s*(?=[-*] ))/u,
  )) {
    if (part.trim() !== "")
      found.push({ sentence: part.replace(/^\s*@\w+(?:\s+\{[^}]*\})?/, ""), offset });
    offset += part.length;
  }
  return found;
}
