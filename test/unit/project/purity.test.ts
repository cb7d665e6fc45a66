import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { posix } from "node:path";
import { describe, it } from "node:test";
import { scan } from "../../support/source-scanner.ts";

const root = new URL("../../../", import.meta.url);

/** npm packages that src may import. All of them are web-standard JavaScript. */
const packages = [
  "valibot",
  "crc-32",
  "@noble/hashes",
  "@bufbuild/protobuf",
  "@connectrpc/connect",
];

/** Globals that only some runtimes have. */
const foreign = [
  "Bun",
  "Deno",
  "process",
  "Buffer",
  "require",
  "module",
  "__dirname",
  "__filename",
  "global",
  "setImmediate",
  "clearImmediate",
  "window",
  "document",
  "navigator",
  "XMLHttpRequest",
];

/** Parts of src that all higher parts may import. */
const foundation = [
  "arguments",
  "errors",
  "failure-list",
  "on-abort",
  "notify",
  "load",
  "piece",
  "runtime",
  "digest",
  "protocol",
  "rate-limiter",
  "transport",
  "gen",
  "ids",
  "telemetry",
  "unshared",
  "resolved",
];
/** Parts of src, with the parts that each may import. A part is a folder, or a file beside them. */
const mayImport: Record<string, readonly string[]> = {
  errors: [],
  "on-abort": [],
  notify: [],
  "failure-list": ["errors"],
  load: ["errors"],
  resolved: [],
  unshared: [],
  spelling: [],
  arguments: ["errors", "spelling"],
  piece: ["arguments", "errors"],
  digest: ["errors", "piece"],
  runtime: ["errors", "digest"],
  protocol: ["arguments", "errors", "piece", "unshared"],
  "rate-limiter": ["arguments", "errors", "on-abort", "piece", "runtime"],
  transport: ["arguments", "errors", "failure-list", "on-abort", "piece", "runtime"],
  gen: [],
  "task-url": ["errors"],
  "registry-url": [],
  ids: ["arguments", "errors", "piece", "digest", "task-url", "registry-url"],
  telemetry: ["errors", "piece", "transport"],
  store: foundation,
  client: [...foundation, "config", "task"],
  server: [...foundation, "config", "store"],
  task: [...foundation, "store"],
  config: [...foundation, "spelling"],
};

/** Current violations of the direction, with their reasons. A fixed violation must be removed. */
const exceptions: Record<string, string> = {};

interface Source {
  /** Path relative to src, or to the project for other folders. */
  readonly path: string;
  readonly imports: readonly string[];
  readonly code: string;
}

const sources = read("src/", "src");
const outside = ["adapters", "entry", "cli"].flatMap((folder) => read("", folder));

/** Folders outside of src, with the folders that each may import. */
const layers: Record<string, readonly string[]> = {
  adapters: ["src"],
  entry: ["src", "adapters"],
  cli: ["src", "adapters", "entry"],
};

describe("the purity of src", () => {
  it("the scan finds the files and their imports", () => {
    assert.ok(sources.length > 25);
    const downloader = sources.find(({ path }) => path === "client/vortex/client.ts");
    assert.ok(downloader?.imports.includes("../../protocol/decoder.ts"));
    assert.ok(sources.flatMap(({ imports }) => imports).length > 80);
  });

  for (const { path, imports, code } of sources) {
    it(`${path} imports no runtime's module, only relative files and ${packages.length} known packages`, () => {
      const strange = imports.filter(
        (specifier) => !specifier.startsWith(".") && !isKnownPackage(specifier),
      );
      assert.deepEqual(strange, []);
    });

    it(`${path} uses no global of a single runtime`, () => {
      assert.deepEqual(namedIn(code), []);
    });
  }
});

describe("the direction of imports", () => {
  const edges = sources.flatMap(({ path, imports }) =>
    imports
      .filter((specifier) => specifier.startsWith("."))
      .map((specifier) => ({ path, to: resolve(path, specifier) })),
  );

  it("every part of src has a rule", () => {
    const parts = new Set(sources.map(({ path }) => partOf(path)));
    assert.deepEqual(
      [...parts].filter((part) => mayImport[part] === undefined),
      [],
    );
  });

  it("src imports nothing from outside src", () => {
    const wrong = edges.filter(({ to }) => to.startsWith(".."));
    assert.deepEqual(wrong, []);
  });

  it("every import names an existing file", () => {
    const paths = new Set(sources.map(({ path }) => path));
    assert.deepEqual(
      edges.filter(({ to }) => !paths.has(to)),
      [],
    );
  });

  for (const part of Object.keys(mayImport)) {
    it(`${part} imports ${mayImport[part]?.length === 0 ? "no other part" : `only ${mayImport[part]?.join(", ")}`}`, () => {
      const wrong = edges
        .filter(({ path }) => partOf(path) === part)
        .filter(({ to }) => partOf(to) !== part && !mayImport[part]?.includes(partOf(to)))
        .map(({ path, to }) => `${path} -> ${to}`)
        .filter((edge) => exceptions[edge] === undefined);
      assert.deepEqual(wrong, []);
    });
  }

  it("protocol and transport are independent, and so are the server and the client with its tasks", () => {
    for (const [one, other] of [
      ["protocol", "transport"],
      ["client", "server"],
      ["task", "server"],
    ] as const) {
      const wrong = edges.filter(
        ({ path, to }) =>
          (partOf(path) === one && partOf(to) === other) ||
          (partOf(path) === other && partOf(to) === one),
      );
      assert.deepEqual(wrong, []);
    }
  });

  it("each named exception still exists", () => {
    const found = new Set(edges.map(({ path, to }) => `${path} -> ${to}`));
    assert.deepEqual(
      Object.keys(exceptions).filter((edge) => !found.has(edge)),
      [],
    );
  });

  it("there are no import cycles", () => {
    const next = new Map<string, string[]>();
    for (const { path, to } of edges) next.set(path, [...(next.get(path) ?? []), to]);
    const done = new Set<string>();
    const visit = (path: string, trail: readonly string[]): void => {
      assert.ok(!trail.includes(path), `a circle: ${[...trail, path].join(" -> ")}`);
      if (done.has(path)) return;
      for (const to of next.get(path) ?? []) visit(to, [...trail, path]);
      done.add(path);
    };
    for (const path of next.keys()) visit(path, []);
  });

  for (const [layer, below] of Object.entries(layers)) {
    it(`${layer} imports only ${below.join(", ")}`, () => {
      const wrong = outside
        .filter(({ path }) => partOf(path) === layer)
        .flatMap(({ path, imports }) =>
          imports
            .filter((specifier) => specifier.startsWith("."))
            .map((specifier) => resolve(path, specifier))
            .filter((to) => ![layer, ...below].includes(partOf(to)) && !to.endsWith(".json"))
            .map((to) => `${path} -> ${to}`),
        );
      assert.deepEqual(wrong, []);
    });
  }

  it("adapters/shared imports no adapter", () => {
    const wrong = outside
      .filter(({ path }) => path.startsWith("adapters/shared/"))
      .flatMap(({ path, imports }) =>
        imports
          .filter((specifier) => specifier.startsWith("."))
          .map((specifier) => resolve(path, specifier))
          .filter((to) => to.startsWith("adapters/") && !to.startsWith("adapters/shared/"))
          .map((to) => `${path} -> ${to}`),
      );
    assert.deepEqual(wrong, []);
  });
});

describe("the purity of the entry point for edge workers", () => {
  const all = new Map(
    [...sources.map((source) => ({ ...source, path: `src/${source.path}` })), ...outside].map(
      (source) => [source.path, source],
    ),
  );
  const reached = new Map<string, Source>();
  const visit = (path: string): void => {
    const source = all.get(path);
    if (source === undefined || reached.has(path)) return;
    reached.set(path, source);
    for (const specifier of source.imports)
      if (specifier.startsWith(".")) visit(resolve(path, specifier));
  };
  visit("entry/workers.ts");

  it("the scan finds its imports", () => {
    for (const path of ["adapters/workers/native.ts", "entry/root.ts", "src/client/call/pool.ts"])
      assert.ok(reached.has(path), path);
  });

  it("no direct or indirect import needs another runtime's module", () => {
    const strange = [...reached.values()].flatMap(({ path, imports }) =>
      imports
        .filter((specifier) => !specifier.startsWith(".") && !isKnownPackage(specifier))
        .map((specifier) => `${path} -> ${specifier}`),
    );
    assert.deepEqual(strange, ["adapters/workers/native.ts -> cloudflare:sockets"]);
  });

  it("its files outside of src use no global of a single runtime", () => {
    const named = [...reached.values()]
      .filter(({ path }) => !path.startsWith("src/"))
      .flatMap(({ path, code }) => namedIn(code).map((name) => `${path}: ${name}`));
    assert.deepEqual(named, []);
  });
});

describe("the scanner used by this test", () => {
  const forms: [source: string, imports: string[]][] = [
    ['import { a } from "node:net";', ["node:net"]],
    ["import type { A } from 'x';", ["x"]],
    ['import a, * as b from "x"', ["x"]],
    ['import {\n  a,\n  type B,\n} from "./y.ts";', ["./y.ts"]],
    ['import "side";', ["side"]],
    ['const a = await import("late");', ["late"]],
    ['export * from "all";\nexport { b } from "b"', ["all", "b"]],
    ['export const from = "no";', []],
    ['// import "comment";\n/* import "block"; */', []],
    ['const text = "import \\"x\\"; // no";', []],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
    ['const t = `import "no" ${await import("yes")}`;', ["yes"]],
    ['const r = /["/]/; import "after";', ["after"]],
  ];
  for (const [source, imports] of forms) {
    it(JSON.stringify(source), () => {
      assert.deepEqual(scan(source).imports, imports);
    });
  }

  it("ignores comments and texts", () => {
    assert.equal(
      scan('a("process"); // Bun\n/* Deno */ `Buffer`').code.replaceAll(/\s+/g, " "),
      'a(""); ""',
    );
  });
});

describe("the text of addresses", () => {
  // Brackets, colons of IPv6 and IPv4-mapped addresses; `host` without a colon is a name or IPv4.
  const forms = /`\[\$\{|host\.(?:includes|indexOf|lastIndexOf|split)\(":"|\^::ffff/;

  it("is parsed and formatted only by transport/address.ts", () => {
    const found = ["src", "adapters", "cli", "entry"]
      .flatMap((folder) => read("", folder))
      .filter(({ path }) => forms.test(readFileSync(new URL(path, root), "utf8")))
      .map(({ path }) => path);
    // config/keys.ts formats a list.
    assert.deepEqual(found, ["src/config/keys.ts", "src/transport/address.ts"]);
  });
});

function read(base: string, folder: string): Source[] {
  const found: Source[] = [];
  for (const entry of readdirSync(new URL(`${folder}/`, root), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) found.push(...read(base, path));
    else if (entry.name.endsWith(".ts")) {
      found.push({
        path: path.slice(base.length),
        ...scan(readFileSync(new URL(path, root), "utf8")),
      });
    }
  }
  return found;
}

/** Returns the globals of single runtimes that the code uses. */
function namedIn(code: string): string[] {
  return foreign.filter((name) =>
    new RegExp(`(?<![.\\w$#])${name}(?![\\w$]|\\s*\\??:)`).test(code),
  );
}

function isKnownPackage(specifier: string): boolean {
  return packages.some((name) => specifier === name || specifier.startsWith(`${name}/`));
}

function resolve(path: string, specifier: string): string {
  return posix.join(posix.dirname(path), specifier);
}

/** Returns the part of a path: `client` for `client/pool.ts`, `errors` for `errors.ts`. */
function partOf(path: string): string {
  return path.includes("/") ? path.slice(0, path.indexOf("/")) : path.replace(/\.ts$/, "");
}
