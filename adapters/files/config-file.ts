/** Configuration files: a `dfdaemon.yaml`, or one like it. */
import { type FileHandle, open } from "node:fs/promises";
import process from "node:process";
import type * as Yaml from "yaml";
import type { Document, LineCounter, YAMLParseError } from "yaml";
import { downloaderOptions } from "../../src/client/configured.ts";
import type { CreateDownloaderOptions } from "../../src/client/factory.ts";
import {
  type ConfigLayer,
  type MutualTlsFiles,
  parseConfigLayer,
  type ResolvedConfig,
  resolveConfig,
} from "../../src/config/config.ts";
import { type MutualTls, mutualTlsFiles } from "../../src/config/mutual-tls.ts";
import { VortexError } from "../../src/errors.ts";
import { serverOptions } from "../../src/server/configured.ts";
import type { StorageServerOptions } from "../../src/server/storage-server.ts";
import type { ProtocolChoice } from "../../src/transport/protocol.ts";
import { nativeError } from "../shared/native-error.ts";
import { permissionError } from "../shared/permission.ts";
import { warnOnce } from "../shared/warn-once.ts";
import { storageError } from "./storage-error.ts";
import { readText } from "./text.ts";

/** A configuration in effect, and what it says to fetch and to serve with. */
export interface LoadedConfig extends ResolvedConfig {
  /**
   * Options for `createDownloader`. Spread them, and what stands beside them wins:
   * `createDownloader({ ...(await config.downloader()), pieceTimeout: 60_000 })`.
   * Rejects with `StorageFailed` when a certificate or key that the configuration names cannot be read.
   *
   * @param protocol instead of the configuration's; which certificates count depends on it
   */
  downloader(protocol?: ProtocolChoice): Promise<CreateDownloaderOptions>;
  /** Options for `startServer`, but for the store. Rejects as {@link downloader} does. */
  server(): Promise<Omit<StorageServerOptions, "store">>;
}

/**
 * Bytes in a file that is taken for a configuration. Stock Dragonfly's own, with every comment, has some 20,000; and what is made to
 * be hard to parse takes time with the square of its length: seconds, at this one.
 */
const MAX_FILE_BYTES = 128 * 1024;

/** Characters of what the parser says of one error; it may repeat what it was given. */
const MAX_REASON_LENGTH = 200;

/** The environment variable that names the file. */
export const configVariable = "VORTEX_PEER_CONFIG";

/**
 * Reads a configuration file: YAML in the form of Dragonfly's `dfdaemon.yaml`, with merge keys (`<<`), up to 128 KiB. See
 * `parseConfig` for the keys. Files that it names are sought where stock Dragonfly seeks them: from the working directory. A value
 * that has no effect although it looks meant for this library is named on the standard error, once a process.
 *
 * @example
 * ```ts
 * import { createDownloader, FilePieceStore, loadConfig, startServer } from "vortex-peer";
 *
 * const config = await loadConfig("/etc/dragonfly/dfdaemon.yaml");
 * const downloader = createDownloader(await config.downloader());
 * const server = await startServer({ ...(await config.server()), store: new FilePieceStore() });
 * ```
 *
 * @param path default: what the environment variable `VORTEX_PEER_CONFIG` says; without one, every default is in effect
 *
 * Rejects with `StorageFailed` when the file cannot be read, with `InvalidArgument` when it is no YAML or has wrong values, one line
 * for each, `file:line: key: value: expected …`, and with `Unavailable` when the variable may not be read.
 */
export async function loadConfig(path?: string): Promise<LoadedConfig> {
  const file = path ?? namedByEnvironment();
  // An empty variable is none, as shells have it.
  return loadedConfig(...(file ? [await readConfigLayer(file)] : []));
}

/** Each key from the first layer that has it, else its default. */
export function loadedConfig(...layers: readonly ConfigLayer[]): LoadedConfig {
  const { config, settings } = resolveConfig(...layers);
  return {
    config,
    settings,
    async downloader(protocol = config.download.protocol) {
      const mutual = await readMutualTls(config.upload.client);
      const { caCert } = config.vortexPeer.quic;
      const usesCa = caCert !== undefined && protocol !== "grpc" && protocol !== "tcp";
      const chosen = { ...config, download: { ...config.download, protocol } };
      return downloaderOptions(chosen, { mutual, ca: usesCa ? await readText(caCert) : undefined });
    },
    async server() {
      return serverOptions(config, { mutual: await readMutualTls(config.upload.server) });
    },
  };
}

function namedByEnvironment(): string | undefined {
  try {
    return process.env[configVariable];
  } catch (error) {
    throw nativeError(error, "Unavailable", `${configVariable} cannot be read`);
  }
}

/** What a configuration file says, and at which line. Rejects as {@link loadConfig} does. */
export async function readConfigLayer(path: string): Promise<ConfigLayer> {
  return parseConfigText(await readConfigText(path), path);
}

/**
 * What the text of a configuration says, and at which line of `file`.
 * Rejects with `InvalidArgument`, see {@link loadConfig}.
 *
 * @param warn receives a line for each value without effect
 */
export async function parseConfigText(
  text: string,
  file: string,
  warn: (line: string) => void = warnOnce,
): Promise<ConfigLayer> {
  // Loaded here, since most programs have no such file.
  const yaml = await import("yaml");
  const lines = new yaml.LineCounter();
  const document = understood(file, () =>
    yaml.parseDocument(text, {
      lineCounter: lines,
      merge: true,
      prettyErrors: false,
      logLevel: "error",
    }),
  );
  if (document.errors.length > 0) throw syntaxError(file, document.errors, lines);
  // Refuses aliases that stand for more than a hundred times what is written.
  const input: unknown = understood(file, () => document.toJS({ maxAliasCount: 100 }));
  const sourceOf = (path: readonly string[]): string =>
    `${file}:${lines.linePos(offsetOf(yaml, document, path)).line}`;
  return parseConfigLayer(input, sourceOf, (line) => warn(`vortex-peer: ${line}`));
}

/** The result of `parse`, which throws at what it was not made for, such as sections within sections a million deep. */
function understood<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    // The parser looks for variables of its own in the environment.
    const denied = permissionError(error, `${file} cannot be read as YAML`);
    if (denied !== undefined) throw denied;
    const reason = error instanceof Error ? error.message : String(error);
    throw new VortexError("InvalidArgument", `${file}:1: cannot be read as YAML: ${reason}`, {
      cause: error,
    });
  }
}

function syntaxError(
  file: string,
  errors: readonly YAMLParseError[],
  lines: LineCounter,
): VortexError {
  // What is no YAML at all has errors without end.
  const told = errors.slice(0, 10).map(({ code, pos, message }) => {
    const reason =
      code === "MULTIPLE_DOCS" ? "expected one document" : message.slice(0, MAX_REASON_LENGTH);
    return `${file}:${lines.linePos(pos[0]).line}: ${reason}`;
  });
  return new VortexError("InvalidArgument", told.join("\n"), { cause: errors[0] });
}

/** Where the last key of `path` begins in the text; where the document does, for a path without keys. */
function offsetOf(yaml: typeof Yaml, document: Document.Parsed, path: readonly string[]): number {
  let section: unknown = document.contents;
  let offset = document.contents?.range[0] ?? 0;
  for (const name of path) {
    const pair = pairOf(yaml, document, section, name);
    if (!yaml.isScalar(pair?.key)) break;
    offset = pair.key.range?.[0] ?? offset;
    section = pair.value;
  }
  return offset;
}

/** The key `name` of a section with its value, from what is merged into it where it is not the section's own. */
function pairOf(
  yaml: typeof Yaml,
  document: Document.Parsed,
  node: unknown,
  name: string,
): Yaml.Pair | undefined {
  const section = yaml.isAlias(node) ? node.resolve(document) : node;
  if (!yaml.isMap(section)) return undefined;
  const own = section.items.find(({ key }) => yaml.isScalar(key) && String(key.value) === name);
  if (own !== undefined) return own;
  for (const { key, value } of section.items) {
    // The parser has a symbol in the place of the key.
    if (!yaml.isScalar(key) || typeof key.value !== "symbol") continue;
    const merged = yaml.isAlias(value) ? value.resolve(document) : value;
    for (const source of yaml.isSeq(merged) ? merged.items : [merged]) {
      const pair = pairOf(yaml, document, source, name);
      if (pair !== undefined) return pair;
    }
  }
  return undefined;
}

async function readConfigText(path: string): Promise<string> {
  const bytes = await readUpTo(MAX_FILE_BYTES + 1, path);
  if (bytes.length > MAX_FILE_BYTES) {
    throw new VortexError(
      "InvalidArgument",
      `${path}:1: expected a configuration of at most ${MAX_FILE_BYTES} bytes`,
    );
  }
  try {
    // A byte order mark is taken off.
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Told below.
  }
  throw new VortexError("InvalidArgument", `${path}:1: expected a text file in UTF-8`);
}

/** What a file begins with; not more, however long it is, and whatever kind of file. */
async function readUpTo(most: number, path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(most);
  let length = 0;
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    while (length < most) {
      const { bytesRead } = await file.read(bytes, length, most - length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
  } catch (error) {
    throw storageError(error, `${path} cannot be read`);
  } finally {
    await file?.close();
  }
  return bytes.subarray(0, length);
}

async function readMutualTls(files: MutualTlsFiles): Promise<MutualTls | undefined> {
  const names = mutualTlsFiles(files);
  if (names === undefined) return undefined;
  const [ca, cert, key] = await Promise.all([
    readText(names.ca),
    readText(names.cert),
    readText(names.key),
  ]);
  return { ca, cert, key };
}
