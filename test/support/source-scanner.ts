/**
 * Imports and code of a source file. The scanner supports only the TypeScript syntax used in this
 * repository.
 */
export interface Scanned {
  /** Module specifiers of `import … from ""`, `export … from ""`, `import ""` and `import("")`. */
  readonly imports: readonly string[];
  /** Those of the imports that load a module together with the file: no types, no `import("")`. */
  readonly loads: readonly string[];
  /** Code without comments. The contents of strings and regular expressions are removed. */
  readonly code: string;
}

const STRING_MARK = "\u0000";

/** Scans the text of a TypeScript file, and returns its imports and its code without comments. */
export function scan(source: string): Scanned {
  const strings: string[] = [];
  let code = "";
  let at = 0;

  const addString = (value: string): void => {
    code += `${STRING_MARK}${strings.length}${STRING_MARK}`;
    strings.push(value);
  };

  const quoted = (quote: string): void => {
    let value = "";
    at++;
    while (at < source.length && source[at] !== quote) {
      if (source[at] === "\\") value += source[at++];
      value += source[at++];
    }
    at++;
    addString(value);
  };

  const template = (): void => {
    let value = "";
    at++;
    while (at < source.length && source[at] !== "`") {
      if (source[at] === "\\") {
        value += source.slice(at, at + 2);
        at += 2;
      } else if (source.startsWith("${", at)) {
        addString(value);
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
    addString(value);
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
    addString("");
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

  const found = [...code.matchAll(IMPORT)].map(([statement, from, bare, called]) => ({
    specifier: strings[Number(from ?? bare ?? called)] ?? "",
    loads: called === undefined && !/^(import|export)\s+type\b(?!\s+from\b)/.test(statement),
  }));
  const imports = found.map(({ specifier }) => specifier);
  const loads = found.filter((each) => each.loads).map(({ specifier }) => specifier);
  return { imports, loads, code: code.replaceAll(STRING_REFERENCE, '""') };
}

const STRING_REFERENCE = new RegExp(`${STRING_MARK}[0-9]+${STRING_MARK}`, "g");
const IMPORT = new RegExp(
  [
    `\\b(?:import|export)\\b[^;${STRING_MARK}()=]*?\\bfrom\\s*${STRING_MARK}([0-9]+)${STRING_MARK}`,
    `\\bimport\\s*${STRING_MARK}([0-9]+)${STRING_MARK}`,
    `\\bimport\\s*\\(\\s*${STRING_MARK}([0-9]+)${STRING_MARK}`,
  ].join("|"),
  "g",
);
