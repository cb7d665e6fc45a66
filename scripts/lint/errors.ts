// Checks the form of error messages: `what failed: expected X, got Y; what to do`. Applies to every
// `new VortexError(`.
import ts from "typescript";
import type { Violation } from "./rules.ts";

/**
 * Codes whose message may be any one line: the caller ended the operation, and no value was
 * expected.
 */
const EXEMPT: ReadonlySet<string> = new Set(["Aborted", "Closed"]);

/** Codes that compare two values: the message must have both. */
const COMPARING: ReadonlySet<string> = new Set([
  "InvalidArgument",
  "LimitExceeded",
  "PieceMismatch",
  "LengthMismatch",
  "DigestMismatch",
  "InvalidPacket",
  "InvalidLength",
  "InvalidUtf8",
  "ProtocolViolation",
  "TruncatedContent",
]);

/** Placeholder for an inserted value of a template. */
const VALUE = "…";

/**
 * Checks the messages of `new VortexError(code, message)` in TypeScript. A message from a variable
 * or a call is checked where it is written, if that is another `new VortexError(`.
 */
export function checkErrors(source: string): Violation[] {
  const file = ts.createSourceFile("file.ts", source, ts.ScriptTarget.Latest, true);
  const violations: Violation[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isNewExpression(node) && node.expression.getText() === "VortexError") {
      const [code, message] = node.arguments ?? [];
      const line = file.getLineAndCharacterOfPosition(node.getStart()).line + 1;
      for (const text of message === undefined ? [] : textsOf(message)) {
        const fault = faultOf(text, literalsOf(code));
        if (fault !== undefined) violations.push({ line, rule: "error-form", message: fault });
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return violations;
}

/** Returns the problem of a message, if there is one. */
function faultOf(text: string, codes: readonly string[]): string | undefined {
  if (text.includes("\n")) return "message has several lines: expected one";
  if (text.endsWith(".")) return "message ends with a full stop";
  if (codes.length > 0 && codes.every((code) => EXEMPT.has(code))) return undefined;
  const shown = JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
  if (!/^.+?: ./.test(text)) return `expected "what failed: why", got ${shown}`;
  const compares = codes.length > 0 && codes.every((code) => COMPARING.has(code));
  if (compares && !/: .*\bexpected .*\bgot /.test(text)) {
    return `expected "what failed: expected X, got Y", got ${shown}`;
  }
  return undefined;
}

/** Lists the possible texts of an expression; empty if it is not a literal. */
function textsOf(node: ts.Expression): string[] {
  if (ts.isParenthesizedExpression(node)) return textsOf(node.expression);
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isTemplateExpression(node)) {
    return [
      node.head.text + node.templateSpans.map(({ literal }) => VALUE + literal.text).join(""),
    ];
  }
  if (ts.isConditionalExpression(node))
    return [...textsOf(node.whenTrue), ...textsOf(node.whenFalse)];
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    const right = textsOf(node.right);
    return textsOf(node.left).flatMap((left) =>
      (right.length > 0 ? right : [VALUE]).map((text) => left + text),
    );
  }
  return [];
}

/** Lists the possible codes of an expression; empty if it is not a literal. */
function literalsOf(node: ts.Expression | undefined): string[] {
  if (node === undefined) return [];
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isConditionalExpression(node)) {
    const branches = [literalsOf(node.whenTrue), literalsOf(node.whenFalse)];
    return branches.every((codes) => codes.length > 0) ? branches.flat() : [];
  }
  return [];
}
