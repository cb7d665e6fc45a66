import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { checkErrors } from "../../../scripts/lint/errors.ts";
import {
  checkDocstring,
  checkPhrases,
  checkSubject,
  checkWidth,
  type Violation,
} from "../../../scripts/lint/rules.ts";
import { checkCode, checkMarkdown } from "../../../scripts/lint/sources.ts";

const rulesOf = (violations: readonly Violation[]): string[] =>
  violations.map(({ line, rule }) => `${line} ${rule}`);
const words = (count: number): string => Array.from({ length: count }, () => "word").join(" ");

describe("the language rules", () => {
  it("require a docstring to begin with a verb or a noun", () => {
    for (const start of ["What", "Who", "How", "Whether", "Where", "Of", "As", "By", "Whoever"]) {
      assert.deepEqual(rulesOf(checkDocstring(`${start} it is.`, 7)), ["7 docstring-start"]);
    }
    for (const text of [
      "Fetches a piece.",
      "Grace period in ms.",
      "Whatsoever.",
      "`what` is a name.",
      "",
    ]) {
      assert.deepEqual(checkDocstring(text, 1), []);
    }
  });

  it("limit a sentence of a docstring to 25 words", () => {
    assert.deepEqual(checkDocstring(`${words(25)}. Then ${words(24)}.`, 1), []);
    assert.deepEqual(rulesOf(checkDocstring(`Short.\n\nNow ${words(26)}.\nEnd.`, 3)), [
      "5 sentence-length",
    ]);
    // A tag, a list and a paragraph each begin a sentence.
    assert.deepEqual(
      checkDocstring(`${words(20)}\n\n@param one ${words(20)}\n- ${words(20)}\n- ${words(20)}`, 1),
      [],
    );
    assert.deepEqual(checkDocstring(`Code does not count: \`${words(40)}\`.`, 1), []);
  });

  it("find banned phrases across line breaks, but not within words or code", () => {
    const at = (text: string): string[] => rulesOf(checkPhrases(text, 1));
    for (const phrase of [
      "whoever",
      "Whom",
      "who has",
      "anew",
      "be had",
      "is told",
      "was told",
      "tells of",
      "but for",
    ]) {
      assert.deepEqual(at(`one ${phrase} two`), ["1 banned-phrase"], phrase);
    }
    assert.deepEqual(at("one\n * two is\n * told three"), ["2 banned-phrase"]);
    assert.deepEqual(at("// a limit of its\n// own"), ["1 banned-phrase"]);
    assert.deepEqual(at("renewed, whomever-less, `anew`, this, the"), []);
    assert.match(checkPhrases("nobody", 1)[0]?.message ?? "", /^"nobody": write /);
  });

  it("limit a line of prose to 100 columns, unless it contains a URL", () => {
    assert.deepEqual(
      checkWidth(["x".repeat(100), `${"x".repeat(99)} https://example.org/`], 1),
      [],
    );
    assert.deepEqual(rulesOf(checkWidth(["short", "ü".repeat(101)], 4)), ["5 line-width"]);
  });

  it("require the subject of a commit to name the area and the change", () => {
    for (const subject of [
      "tcp: reuse idle connections",
      "src/task, cli: add patience",
      "Merge branch x",
      "Revert y",
    ]) {
      assert.deepEqual(checkSubject(`${subject}\n\nWhy.`), [], subject);
    }
    for (const subject of [
      "reuse idle connections",
      "tcp: reused them",
      "tcp: the pool",
      "tcp: reuse it.",
      `a: do ${words(20)}`,
    ]) {
      assert.equal(checkSubject(subject).length, 1, subject);
    }
  });
});

describe("the scope of the language rules", () => {
  it("includes comments, docstrings and texts of code, each with its line", () => {
    const source = [
      "/**",
      " * What it is.",
      " */",
      "export const one = 1; // whoever",
      'const text = "nobody answers here";',
      'const key = "nobody";',
      `const template = ${"`"}the peer $\{one} is told it${"`"};`,
      `    // ${"x".repeat(94)}`,
    ].join("\n");
    assert.deepEqual(rulesOf(checkCode(source)), [
      "2 docstring-start",
      "4 banned-phrase",
      "5 banned-phrase",
      "7 banned-phrase",
      "8 line-width",
    ]);
  });

  it("includes prose of Markdown, but not its code or the width of its tables", () => {
    const wide = "x".repeat(101);
    const source = [
      "whoever",
      "```ts",
      `const whoever = "${wide}";`,
      "```",
      `| ${wide} |`,
      "| anew |",
      wide,
    ].join("\n");
    assert.deepEqual(rulesOf(checkMarkdown(source)), [
      "1 banned-phrase",
      "6 banned-phrase",
      "7 line-width",
    ]);
  });
});

describe("the form of errors", () => {
  const faults = (code: string, message: string): string[] =>
    rulesOf(checkErrors(`\nthrow new VortexError(${code}, ${message}, { cause });`));

  it("requires the failure and its reason", () => {
    assert.deepEqual(faults('"Stalled"', '"reading piece 3: no byte for 30 s"'), []);
    assert.deepEqual(faults('"Stalled"', '"the peer has fallen silent"'), ["2 error-form"]);
    assert.deepEqual(faults('"Stalled"', '"reading: no byte."'), ["2 error-form"]);
    assert.deepEqual(faults('"Stalled"', '"reading:\\nno byte"'), ["2 error-form"]);
  });

  it("requires the expected and the actual value for codes of comparisons", () => {
    const wrong = ["2 error-form"];
    assert.deepEqual(faults('"PieceMismatch"', `\`piece: expected \${a}, got \${b}\``), []);
    assert.deepEqual(faults('"PieceMismatch"', `\`piece: expected \${a}\``), wrong);
    assert.deepEqual(faults('"PieceMismatch"', `\`expected \${a}, got \${b}\``), wrong);
  });

  it("is checked in each branch and across concatenations", () => {
    assert.deepEqual(faults('"Stalled"', 'late ? "reading: late" : "silent"'), ["2 error-form"]);
    assert.deepEqual(faults('"Stalled"', '"reading" + more'), ["2 error-form"]);
    assert.deepEqual(faults('"LimitExceeded"', `\`list: expected \${a}, \` + \`got \${b}\``), []);
    assert.deepEqual(faults('late ? "PieceTimeout" : "Stalled"', '"reading: late"'), []);
  });

  it("is free for the end that the caller asked for, and unknown for a text from elsewhere", () => {
    assert.deepEqual(faults('"Aborted"', '"aborted"'), []);
    assert.deepEqual(faults("code", "messageOf(error)"), []);
  });
});
