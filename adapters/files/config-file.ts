/** Reads configuration files in the format of `dfdaemon.yaml`. */
import { type FileHandle, open } from "node:fs/promises";
import type * as Yaml from "yaml";
import type { Document, LineCounter, YAMLParseError } from "yaml";
import { downloaderOptions } from "../../src/client/configured.ts";
import type { DownloaderOptions } from "../../src/client/factory.ts";
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
import { permissionError } from "../shared/permission.ts";
import { warnOnce } from "../shared/warn-once.ts";
import { storageError } from "./storage-error.ts";
import { readText } from "./text.ts";

/** Effective configuration, and the options for a downloader and a server that follow from it. */
export interface LoadedConfig extends ResolvedConfig {
  /**
   * Returns the options for `createDownloader`. To override single options, spread the result:
   * `createDownloader({ ...(await config.downloader()), pieceTimeout: 60_000 })`. Rejects with
   * `StorageFailed` if a configured certificate or key cannot be read.
   *
   * @param protocol protocol to use instead of the configured one; it also selects the certificates
   */
  downloader(protocol?: ProtocolChoice): Promise<DownloaderOptions>;
  /**
   * Returns the options for `startServer`, except the piece store. Rejects with `StorageFailed` if
   * a configured certificate or key cannot be read.
   */
  server(): Promise<Omit<StorageServerOptions, "store">>;
}

/**
 * Max length of a configuration file, in bytes. Dragonfly's own file, with every comment, has some
 * 20,000 bytes. Parsing a maliciously crafted file takes time quadratic in its length: seconds at
 * this limit.
 */
const MAX_FILE_BYTES = 128 * 1024;

/**
 * Max length of one message of the YAML parser, in characters. A longer message is cut, because it
 * may quote a long part of the file.
 */
const MAX_REASON_LENGTH = 200;

/**
 * Merges configuration layers. Each key has the value of the first layer that sets the key, or the
 * key's default if no layer sets it.
 */
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

/**
 * Reads the settings of a configuration file, with their line numbers. Rejects like {@link
 * loadConfig}.
 *
 * @param warn receives one line for each value without effect. Default: prints the line, once per
 * process
 */
export async function readConfigLayer(
  path: string,
  warn?: (line: string) => void,
): Promise<ConfigLayer> {
  return parseConfigText(await readConfigText(path), path, warn);
}

/**
 * Parses the text of a configuration file in YAML. Records `file:line` as the source of each
 * setting. Rejects with `InvalidArgument` if the text is not YAML or has invalid values.
 *
 * @param file path of the file, for messages and sources
 * @param warn receives one line for each value without effect
 */
export async function parseConfigText(
  text: string,
  file: string,
  warn: (line: string) => void = warnOnce,
): Promise<ConfigLayer> {
  // Loaded on demand: most programs have no configuration file.
  const yaml = await import("yaml");
  const lines = new yaml.LineCounter();
  const document = asConfigError(file, () =>
    yaml.parseDocument(text, {
      lineCounter: lines,
      merge: true,
      prettyErrors: false,
      logLevel: "error",
    }),
  );
  if (document.errors.length > 0) throw syntaxError(file, document.errors, lines);
  // Rejects aliases that expand to more than a hundred times the written text.
  const input: unknown = asConfigError(file, () => document.toJS({ maxAliasCount: 100 }));
  const sourceOf = (path: readonly string[]): string =>
    `${file}:${lines.linePos(offsetOf(yaml, document, path)).line}`;
  return parseConfigLayer(input, sourceOf, (line) => warn(`vortex-peer: ${line}`));
}

/**
 * Calls `parse` and returns its result. Converts exceptions of the YAML parser to
 * `InvalidArgument`. The parser throws on extreme input, such as a million nested sections.
 */
function asConfigError<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    // The parser reads environment variables, which needs a permission.
    const denied = permissionError(error, `cannot parse ${file} as YAML`);
    if (denied !== undefined) throw denied;
    const reason = error instanceof Error ? error.message : String(error);
    throw new VortexError(
      "InvalidArgument",
      `${file}:1: expected YAML, got text that the parser rejects: ${reason}`,
      { cause: error },
    );
  }
}

function syntaxError(
  file: string,
  errors: readonly YAMLParseError[],
  lines: LineCounter,
): VortexError {
  // Text that is not YAML at all has an error on nearly every line, so only ten are reported.
  const lineErrors = errors.slice(0, 10).map(({ code, pos, message }) => {
    const reason =
      code === "MULTIPLE_DOCS" ? "expected one document" : message.slice(0, MAX_REASON_LENGTH);
    return `${file}:${lines.linePos(pos[0]).line}: ${reason}`;
  });
  const text = lineErrors.join("\n");
  return new VortexError("InvalidArgument", text, { cause: new AggregateError(errors, text) });
}

/**
 * Returns the offset in the text of the last key in `path`, in characters. For an empty path,
 * returns the offset of the document's content.
 */
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

/**
 * Returns the key-value pair with key `name` in a YAML section, or undefined without such a pair. A
 * pair in the section itself takes precedence over a pair merged into it by `<<`.
 */
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
    // The parser represents the merge key `<<` by a symbol.
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
      `${path}:1: expected a configuration of at most ${MAX_FILE_BYTES} bytes, got more`,
    );
  }
  try {
    // The decoder removes a byte order mark.
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Reported below.
  }
  throw new VortexError(
    "InvalidArgument",
    `${path}:1: expected a UTF-8 text file, got binary data`,
  );
}

/**
 * Reads at most the first `maxBytes` bytes of a file, which may also be a pipe or device. Rejects
 * with `StorageFailed` if the file cannot be read.
 */
async function readUpTo(maxBytes: number, path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(maxBytes);
  let length = 0;
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    while (length < maxBytes) {
      const { bytesRead } = await file.read(bytes, length, maxBytes - length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
  } catch (error) {
    throw storageError(error, `cannot read ${path}`);
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
