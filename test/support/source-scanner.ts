/** What a source file imports, and its code without comments and texts. Enough of a scanner for this project's own code. */
export interface Scanned {
  /** What stands between the quotes of `import … from ""`, `export … from ""`, `import ""` and `import("")`. */
  readonly imports: readonly string[];
  /** The code, with comments removed and the contents of texts and regular expressions blanked. */
  readonly code: string;
}

const QUOTE = "\u0000";

/** Scans TypeScript. Texts become a mark and their position in the list of texts, so that imports can be found. */
export function scan(source: string): Scanned {
  const texts: string[] = [];
  let code = "";
  let at = 0;

  const text = (value: string): void => {
    code += `${QUOTE}${texts.length}${QUOTE}`;
    texts.push(value);
  };

  const quoted = (quote: string): void => {
    let value = "";
    at++;
    while (at < source.length && source[at] !== quote) {
      if (source[at] === "\\") value += source[at++];
      value += source[at++];
    }
    at++;
    text(value);
  };

  const template = (): void => {
    let value = "";
    at++;
    while (at < source.length && source[at] !== "`") {
      if (source[at] === "\\") {
        value += source.slice(at, at + 2);
        at += 2;
      } else if (source.startsWith("${", at)) {
        text(value);
        value = "";
        at += 2;
        code += "(";
        scanUntil("}");
        code += ")";
      } else {
        value += source[at++];
      }
    }
    at++;
    text(value);
  };

  const regularExpression = (): void => {
    let inClass = false;
    at++;
    while (at < source.length && (inClass || source[at] !== "/")) {
      if (source[at] === "\\") at++;
      else if (source[at] === "[") inClass = true;
      else if (source[at] === "]") inClass = false;
      at++;
    }
    at++;
    text("");
  };

  function scanUntil(end: string): void {
    let depth = 0;
    while (at < source.length) {
      const char = source[at] ?? "";
      if (source.startsWith("//", at)) {
        const line = source.indexOf("\n", at);
        at = line < 0 ? source.length : line;
      } else if (source.startsWith("/*", at)) {
        at = source.indexOf("*/", at) + 2;
        code += " ";
      } else if (char === '"' || char === "'") {
        quoted(char);
      } else if (char === "`") {
        template();
      } else if (
        char === "/" &&
        /(^|[=(,:;!&|?{}[<>+*%~^-]|\b(return|typeof|case|of|in))\s*$/.test(code)
      ) {
        regularExpression();
      } else {
        if (char === "{") depth++;
        if (char === "}" && end === "}" && depth-- === 0) {
          at++;
          return;
        }
        code += char;
        at++;
      }
    }
  }
  scanUntil("");

  const imports = [...code.matchAll(IMPORT)].map(
    ([, from, bare, called]) => texts[Number(from ?? bare ?? called)] ?? "",
  );
  return { imports, code: code.replaceAll(MARK, '""') };
}

const MARK = new RegExp(`${QUOTE}[0-9]+${QUOTE}`, "g");
const IMPORT = new RegExp(
  [
    `\\b(?:import|export)\\b[^;${QUOTE}()=]*?\\bfrom\\s*${QUOTE}([0-9]+)${QUOTE}`,
    `\\bimport\\s*${QUOTE}([0-9]+)${QUOTE}`,
    `\\bimport\\s*\\(\\s*${QUOTE}([0-9]+)${QUOTE}`,
  ].join("|"),
  "g",
);
