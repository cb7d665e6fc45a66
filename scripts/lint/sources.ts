// Extracts the prose of source files and pages for the language rules.
import ts from "typescript";
import { checkDocstring, checkPhrases, checkWidth, type Violation } from "./rules.ts";

/** Minimum number of words of a text. Shorter ones are names, keys and codes. */
const MIN_TEXT_WORDS = 3;

/** Checks the comments and texts of TypeScript or JavaScript. */
export function checkCode(source: string): Violation[] {
  const violations: Violation[] = [];
  const lineOf = (position: number): number => source.slice(0, position).split("\n").length;
  for (const { kind, text, start } of tokensOf(source)) {
    const line = lineOf(start);
    if (kind === "text") {
      if (text.split(/\s+/).length >= MIN_TEXT_WORDS) violations.push(...checkPhrases(text, line));
      continue;
    }
    violations.push(...checkPhrases(text, line));
    // The indentation of the first line counts too.
    const [first = "", ...rest] = text.split("\n");
    const indent = start - (source.lastIndexOf("\n", start - 1) + 1);
    violations.push(...checkWidth([" ".repeat(indent) + first, ...rest], line));
    if (kind !== "docstring") continue;
    const bare = text.replace(/^\/\*\*|\*\/$/g, "").replace(/^[ \t]*\* ?/gm, "");
    violations.push(...checkDocstring(bare, line));
  }
  return violations.sort((a, b) => a.line - b.line);
}

/** Checks the prose of a Markdown page, except its code and the width of its tables. */
export function checkMarkdown(source: string): Violation[] {
  const violations: Violation[] = [];
  let fence: string | undefined;
  for (const [index, text] of source.split("\n").entries()) {
    const [mark] = /^\s*(?:```+|~~~+)/.exec(text) ?? [];
    if (mark !== undefined) {
      if (fence === undefined) fence = mark.trim();
      else if (mark.trim().startsWith(fence)) fence = undefined;
      continue;
    }
    if (fence !== undefined || text.startsWith("    ")) continue;
    violations.push(...checkPhrases(text, index + 1));
    if (!text.trimStart().startsWith("|")) violations.push(...checkWidth([text], index + 1));
  }
  return violations;
}

/** Comment or text, verbatim, with its start offset. */
interface Token {
  readonly kind: "docstring" | "comment" | "text";
  readonly text: string;
  readonly start: number;
}

/** Lists comments and texts in source order. */
function tokensOf(source: string): Token[] {
  const file = ts.createSourceFile("file.ts", source, ts.ScriptTarget.Latest, true);
  const seen = new Set<number>();
  const found: Token[] = [];
  const visit = (node: ts.Node): void => {
    for (const range of [
      ...(ts.getLeadingCommentRanges(source, node.getFullStart()) ?? []),
      ...(ts.getTrailingCommentRanges(source, node.getEnd()) ?? []),
    ]) {
      if (seen.has(range.pos)) continue;
      seen.add(range.pos);
      const text = source.slice(range.pos, range.end);
      found.push({
        kind: text.startsWith("/**") ? "docstring" : "comment",
        text,
        start: range.pos,
      });
    }
    if (ts.isStringLiteralLike(node) || ts.isTemplateLiteralToken(node)) {
      found.push({ kind: "text", text: node.text, start: node.getStart() });
    }
    node.getChildren(file).forEach(visit);
  };
  visit(file);
  return found.sort((a, b) => a.start - b.start);
}
