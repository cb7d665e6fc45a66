import { basename } from "node:path";
import type { Command } from "commander";
import * as v from "valibot";
import { FilePieceStore } from "../adapters/files/store.ts";
import type { Config } from "../src/config/config.ts";
import { oneLine, VortexError } from "../src/errors.ts";
import { MAX_PIECE_LENGTH, pieceLengthFor, planTask } from "../src/piece.ts";
import type { StorageServerOptions } from "../src/server/storage-server.ts";
import type { StoredTask } from "../src/store/store.ts";
import { type Address, formatAddress } from "../src/transport/address.ts";
import type { TlsServerOptions } from "../src/transport/tls.ts";
import { addConfigOption, configEntries, effectiveConfig } from "./effective.ts";
import { inFlags } from "./flag-words.ts";
import { formatShare, percentOf } from "./format.ts";
import { checkIdentityOptions, givenIdentity, identityTls, requiresIdentity } from "./identity.ts";
import type { CliServer } from "./sdk.ts";
import { StatusLine } from "./status-line.ts";
import { type CliEnvironment, writeLine } from "./terminal.ts";
import { count, flag, parseOptions, portText, rate, size, taskId, text } from "./values.ts";

/** Interval between updates of the progress line while a file is read, in ms. */
const PROGRESS_INTERVAL_MS = 200;

const schema = v.object({
  ...configEntries,
  host: v.optional(text),
  quic: v.boolean(),
  tcp: v.boolean(),
  grpc: v.boolean(),
  quicPort: v.optional(portText),
  tcpPort: v.optional(portText),
  grpcPort: v.optional(portText),
  taskId: v.optional(taskId),
  pieceLength: v.optional(size),
  grpcTls: flag,
  cert: v.optional(text),
  key: v.optional(text),
  identity: v.optional(v.union([text, v.literal(false)])),
  rotate: flag,
  uploadRate: v.optional(rate),
  maxConnections: v.optional(count(1, 1_000_000)),
  json: flag,
});

type ServeOptions = v.InferOutput<typeof schema>;

/** Server options from the configuration and the command line. */
type ServerSetup = Omit<StorageServerOptions, "store">;

/** Served task and the files with its content. */
interface Served {
  readonly paths: readonly [string, ...string[]];
  readonly task: StoredTask;
}

/** Adds `vortex-peer serve`, which serves files as tasks until a signal ends the command. */
export function addServeCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("serve")
    .summary("serve files as tasks")
    .description(
      "Serves files as tasks over QUIC, TCP and gRPC until interrupted. Prints the addresses and the " +
        "commands that fetch the files. Outside a terminal, SIGHUP changes the certificate: it reads " +
        "--cert and --key again, or creates a new self-signed certificate.",
    )
    .argument("<file...>", "files to serve; files with the same content form one task");
  addConfigOption(command)
    .option("--host <host>", "address to listen on (default: 0.0.0.0)")
    .option("--quic-port <port>", "QUIC port, 0 for any free port (default: 4006)")
    .option("--tcp-port <port>", "TCP port, 0 for any free port (default: 4005)")
    .option("--grpc-port <port>", "gRPC port, 0 for any free port (default: 4000)")
    .option("--no-quic", "do not serve over QUIC")
    .option("--no-tcp", "do not serve over TCP")
    .option("--no-grpc", "do not serve over gRPC")
    .option("--task-id <id>", "task id, 64 characters (default: SHA-256 of the content)")
    .option(
      "--piece-length <size>",
      "piece length, up to 64MiB (default: derived from the content length, like dfdaemon)",
    )
    .option("--grpc-tls", "serve gRPC over TLS, which dfdaemon does not expect")
    .option(
      "--cert <file>",
      "certificate chain for QUIC and --grpc-tls, PEM (default: self-signed certificate)",
    )
    .option("--key <file>", "private key of the certificate, PEM")
    .option(
      "--identity <file>",
      "file that keeps the self-signed certificate and its key (default: in the user's state folder)",
    )
    .option("--no-identity", "keep no certificate; each run creates a new one")
    .option("--rotate", "start with a new self-signed certificate")
    .option("--upload-rate <rate>", "limit of all uploads together, such as 50MB/s (default: none)")
    .option("--max-connections <n>", "max connections per protocol (default: 1024)")
    .option("--json", "print one JSON object on one line when ready")
    .action((files: string[], options: unknown) => serve(files, options, environment));
}

async function serve(
  files: string[],
  commandLine: unknown,
  environment: CliEnvironment,
): Promise<void> {
  const flags = parseOptions(schema, commandLine);
  const { config, server: serverOptions } = await effectiveConfig(flags, environment);
  const setup = await serverOptions();
  const options = withConfiguredTls(flags, setup, config);
  if (options.taskId !== undefined && files.length > 1) {
    throw new VortexError("InvalidArgument", `--task-id: expected one file, got ${files.length}`);
  }
  if (!options.quic && !options.tcp && !options.grpc) {
    throw new VortexError(
      "InvalidArgument",
      "--no-quic, --no-tcp, --no-grpc: expected at most two of them, got all three",
    );
  }
  checkIdentityOptions(options, options.quic || (options.grpc && options.grpcTls));
  if (options.grpcTls && !options.grpc)
    throw new VortexError("InvalidArgument", "--grpc-tls: expected gRPC enabled, got --no-grpc");
  const { signal } = environment;
  await using store = new FilePieceStore();
  const served = await addFiles(store, files, options, environment);
  const server = await start(store, options, setup, environment);
  let stopRotating = (): void => {};
  try {
    if (options.rotate) await server.rotateCertificate();
    const lines = options.json ? [asJson(server, served)] : asText(server, served, options);
    // The SIGHUP handler is installed before the output: a reader of it may send SIGHUP at once.
    const printing = Promise.resolve().then(() => print(lines, environment));
    if (server.fingerprint !== undefined)
      stopRotating = rotateAtHangup(server, options, environment, printing);
    await printing;
    await aborted(signal);
  } finally {
    stopRotating();
    await server.close();
  }
}

/** Fills in the configured certificate when the command line has no certificate options. */
function withConfiguredTls(
  flags: ServeOptions,
  { tls }: ServerSetup,
  { upload }: Config,
): ServeOptions {
  if (tls === undefined) return flags;
  const grpcTls = flags.grpcTls || flags.grpc;
  const unsecured = !flags.quic && !grpcTls;
  if (unsecured || requiresIdentity(flags) || flags.identity === false)
    return { ...flags, grpcTls };
  const { cert, key } = upload.server;
  return { ...flags, grpcTls, cert, key };
}

async function start(
  store: FilePieceStore,
  options: ServeOptions,
  { quic, tcp, grpc, tls, ...rest }: ServerSetup,
  { stderr, env, loadSdk }: CliEnvironment,
): Promise<CliServer> {
  const { grpcTls } = options;
  const reportError = errorReporter(stderr);
  const withoutQuic = {
    store,
    ...rest,
    ...(options.tcp && tcp && { tcp }),
    ...(options.grpc && grpc && { grpc: { ...grpc, ...(grpcTls && { tls: true }) } }),
    ...((options.quic || grpcTls) && {
      tls: { ...clientCaOnly(tls), ...(await identityTls(options, env, reportError)) },
    }),
    onError: reportError,
  };
  const sdk = await loadSdk((line) => {
    stderr.write(`${oneLine(inFlags(line))}\n`);
  });
  if (!options.quic || quic === undefined) return sdk.startServer(withoutQuic);
  try {
    return await sdk.startServer({ ...withoutQuic, quic });
  } catch (error) {
    // QUIC is optional unless --quic-port or a certificate option asks for it.
    const canServeWithoutQuic =
      options.quicPort === undefined && !requiresIdentity(options) && (options.tcp || options.grpc);
    if (!canServeWithoutQuic || !(error instanceof VortexError) || error.code !== "Unavailable")
      throw error;
    // Some platforms and runtimes have no QUIC. The other protocols are served there.
    stderr.write(`vortex-peer: serving without QUIC: ${oneLine(inFlags(error.message))}\n`);
    return sdk.startServer(withoutQuic);
  }
}

/** Returns only the client CA of `tls`. It applies regardless of the server's certificate. */
function clientCaOnly(tls: TlsServerOptions | undefined): TlsServerOptions {
  return tls?.clientCa === undefined ? {} : { clientCa: tls.clientCa };
}

async function print(lines: readonly string[], { stdout, signal }: CliEnvironment): Promise<void> {
  for (const line of lines) await writeLine(stdout, line, signal);
}

/**
 * Changes the certificate at each SIGHUP and prints the new fingerprint, after `printing` resolved.
 * Returns a function that removes the handler.
 */
function rotateAtHangup(
  server: CliServer,
  options: ServeOptions,
  environment: CliEnvironment,
  printing: Promise<void>,
): () => void {
  const { stderr, onHangup } = environment;
  const rotate = async (): Promise<void> => {
    try {
      await printing;
      const fingerprint = await server.rotateCertificate(await givenIdentity(options));
      await print(
        [options.json ? JSON.stringify({ fingerprint }) : `certificate ${fingerprint}`],
        environment,
      );
    } catch (error) {
      errorReporter(stderr)(VortexError.from(error, "Internal"));
    }
  };
  return onHangup?.(() => void rotate()) ?? (() => {});
}

/** Returns a function that writes a non-fatal error to stderr as one line. */
function errorReporter(stderr: CliEnvironment["stderr"]): (error: VortexError) => void {
  return ({ code, message }) => {
    stderr.write(`vortex-peer: ${code}: ${oneLine(message)}\n`);
  };
}

async function addFiles(
  store: FilePieceStore,
  files: string[],
  { taskId, pieceLength }: ServeOptions,
  { stderr, signal }: CliEnvironment,
): Promise<Served[]> {
  if (pieceLength !== undefined && (pieceLength < 1 || pieceLength > MAX_PIECE_LENGTH)) {
    throw new VortexError(
      "InvalidArgument",
      `--piece-length: expected 1 to ${MAX_PIECE_LENGTH} bytes, got ${pieceLength}`,
    );
  }
  const served = new Map<string, Served>();
  for (const path of new Set(files)) {
    const progress = new StatusLine(stderr);
    let shownAt = Number.NEGATIVE_INFINITY;
    const onProgress = (indexed: number, total: number): void => {
      if (performance.now() - shownAt < PROGRESS_INTERVAL_MS) return;
      shownAt = performance.now();
      const text = `reading ${oneLine(path)}  ${percentOf(indexed, total)}%  ${formatShare(indexed, total)}`;
      progress.show((columns) => text.slice(0, columns));
    };
    try {
      const task = await store.addFile(path, {
        ...(taskId !== undefined && { taskId }),
        ...(pieceLength !== undefined && { pieceLength }),
        onProgress,
        signal,
      });
      const known = served.get(task.taskId);
      served.set(task.taskId, {
        paths: known === undefined ? [path] : [...known.paths, path],
        task,
      });
    } finally {
      progress.clear();
    }
  }
  return [...served.values()];
}

function asJson({ addresses, fingerprint }: CliServer, served: Served[]): string {
  return JSON.stringify({
    addresses: Object.fromEntries(
      namedAddresses(addresses).map(([name, address]) => [name, formatAddress(address)]),
    ),
    fingerprint,
    tasks: served.map(({ paths, task }) => ({ paths, ...describe(task) })),
  });
}

function asText(server: CliServer, served: Served[], { grpcTls }: ServeOptions): string[] {
  const addresses = namedAddresses(server.addresses);
  const lines: string[] = [];
  for (const { paths, task } of served) {
    const { taskId, contentLength, pieceCount, digest } = describe(task);
    lines.push(
      `task ${taskId}  ${paths.map(oneLine).join(", ")}`,
      `  ${contentLength} bytes, ${pieceCount} pieces, ${digest}`,
    );
  }
  for (const [name, address] of addresses)
    lines.push(`${name.padEnd(4)} ${formatAddress(address)}`);
  if (server.fingerprint !== undefined) lines.push(`certificate ${server.fingerprint}`);
  const [best] = addresses;
  if (best !== undefined) {
    lines.push("fetch with");
    const secure = best[0] === "quic" || (best[0] === "grpc" && grpcTls);
    const fingerprint = secure ? server.fingerprint : undefined;
    for (const { paths, task } of served)
      lines.push(`  ${getCommand(best, fingerprint, paths[0], task)}`);
  }
  return lines;
}

/**
 * Formats a `vortex-peer get` command for a task. It works on this host; elsewhere, replace the
 * address.
 */
function getCommand(
  [protocol, { host, port }]: [string, Address],
  fingerprint: string | undefined,
  path: string,
  task: StoredTask,
): string {
  const { taskId, contentLength, pieceLength, digest } = describe(task);
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  const words = [
    "vortex-peer",
    "get",
    "--peer",
    formatAddress({ host: reachable, port }),
    "--protocol",
    protocol,
  ];
  words.push("--task-id", taskId);
  if (task.kind !== "standard") words.push("--kind", task.kind);
  words.push("--content-length", String(contentLength));
  if (pieceLength !== pieceLengthFor(contentLength))
    words.push("--piece-length", String(pieceLength));
  if (fingerprint !== undefined) words.push("--fingerprint", fingerprint);
  if (digest !== undefined) words.push("--digest", digest);
  words.push("-o", basename(path));
  return words.map(shellWord).join(" ");
}

function describe({ taskId, contentLength, pieceLength, digest }: StoredTask) {
  const { pieceCount } = planTask(contentLength, pieceLength);
  return { taskId, contentLength, pieceLength, pieceCount, digest };
}

function namedAddresses({
  quic,
  tcp,
  grpc,
}: CliServer["addresses"]): [name: string, address: Address][] {
  const all: [string, Address | undefined][] = [
    ["quic", quic],
    ["tcp", tcp],
    ["grpc", grpc],
  ];
  return all.flatMap(([name, address]) => (address === undefined ? [] : [[name, address]]));
}

function shellWord(word: string): string {
  return /^[\w./:@%+,=-]+$/.test(word) ? word : `'${oneLine(word).replaceAll("'", "'\\''")}'`;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
