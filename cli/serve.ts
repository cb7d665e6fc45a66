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
import type { CliServer } from "./face.ts";
import { formatShare, percentOf } from "./format.ts";
import { checkIdentityOptions, givenIdentity, identityTls, namesIdentity } from "./identity.ts";
import { StatusLine } from "./status-line.ts";
import { type CliEnvironment, writeLine } from "./terminal.ts";
import { count, flag, parseOptions, portText, rate, size, taskId, text } from "./values.ts";

/** Milliseconds between two looks of the progress while a file is read. */
const LOOKS = 200;

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

/** How to serve, as the configuration has it. */
type ServerSetup = Omit<StorageServerOptions, "store">;

/** A task that is served, and the files that have its content. */
interface Served {
  readonly paths: readonly [string, ...string[]];
  readonly task: StoredTask;
}

/** `vortex-peer serve`: files as tasks, to whoever asks. */
export function addServeCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("serve")
    .summary("serve files as tasks")
    .description(
      "Serves files as tasks over QUIC, TCP and gRPC, until it is interrupted. Prints where, and how to fetch them. SIGHUP, " +
        "unless it runs on a terminal, changes the certificate: --cert and --key are read again, a self-signed one is made anew.",
    )
    .argument("<file...>", "files to serve; those of the same content are one task");
  addConfigOption(command)
    .option("--host <host>", "address to listen on (default: 0.0.0.0)")
    .option("--quic-port <port>", "port for QUIC, 0 for any (default: 4006)")
    .option("--tcp-port <port>", "port for TCP, 0 for any (default: 4005)")
    .option("--grpc-port <port>", "port for gRPC, 0 for any (default: 4000)")
    .option("--no-quic", "do not serve QUIC")
    .option("--no-tcp", "do not serve TCP")
    .option("--no-grpc", "do not serve gRPC")
    .option("--task-id <id>", "task id, 64 characters (default: the SHA-256 of the content)")
    .option(
      "--piece-length <size>",
      "length of a piece, up to 64MiB (default: as stock Dragonfly chooses)",
    )
    .option("--grpc-tls", "serve gRPC over TLS, which stock peers do not expect")
    .option(
      "--cert <file>",
      "certificate chain for QUIC and --grpc-tls, PEM (default: a self-signed one)",
    )
    .option("--key <file>", "private key of the certificate, PEM")
    .option(
      "--identity <file>",
      "where the self-signed certificate is kept with its key (default: the user's state folder)",
    )
    .option("--no-identity", "keep no certificate: each run has a new one")
    .option("--rotate", "begin with a new self-signed certificate")
    .option(
      "--upload-rate <rate>",
      "bytes a second that all answers may take together, such as 50MB/s",
    )
    .option("--max-connections <n>", "connections at a time for each protocol (default: 1024)")
    .option("--json", "print one JSON object, on one line, when ready")
    .action((files: string[], options: unknown) => serve(files, options, environment));
}

async function serve(
  files: string[],
  commandLine: unknown,
  environment: CliEnvironment,
): Promise<void> {
  const flags = parseOptions(schema, commandLine);
  const { config, server: serverOptions } = await effectiveConfig(flags, environment);
  const how = await serverOptions();
  const options = withConfiguredTls(flags, how, config);
  if (options.taskId !== undefined && files.length > 1) {
    throw new VortexError(
      "InvalidArgument",
      "--task-id names one task, and there are several files",
    );
  }
  if (!options.quic && !options.tcp && !options.grpc) {
    throw new VortexError(
      "InvalidArgument",
      "--no-quic, --no-tcp, --no-grpc: nothing is left to serve over",
    );
  }
  checkIdentityOptions(options, options.quic || (options.grpc && options.grpcTls));
  if (options.grpcTls && !options.grpc)
    throw new VortexError("InvalidArgument", "--no-grpc, --grpc-tls: expected one");
  const { signal } = environment;
  await using store = new FilePieceStore();
  const served = await addFiles(store, files, options, environment);
  const server = await start(store, options, how, environment);
  let stopRotating = (): void => {};
  try {
    if (options.rotate) await server.rotateCertificate();
    const lines = options.json ? [asJson(server, served)] : asText(server, served, options);
    // Whoever reads that the server is ready may send SIGHUP at once, so that is listened for first.
    const printing = Promise.resolve().then(() => print(lines, environment));
    if (server.fingerprint !== undefined)
      stopRotating = rotateAtHangup(server, options, environment, printing);
    await printing;
    await fired(signal);
  } finally {
    stopRotating();
    await server.close();
  }
}

/** The options, with the certificate that the configuration names where they say nothing about one. */
function withConfiguredTls(
  flags: ServeOptions,
  { tls }: ServerSetup,
  { upload }: Config,
): ServeOptions {
  if (tls === undefined) return flags;
  const grpcTls = flags.grpcTls || flags.grpc;
  const unsecured = !flags.quic && !grpcTls;
  if (unsecured || namesIdentity(flags) || flags.identity === false) return { ...flags, grpcTls };
  const { cert, key } = upload.server;
  return { ...flags, grpcTls, cert, key };
}

async function start(
  store: FilePieceStore,
  options: ServeOptions,
  { quic, tcp, grpc, tls, ...rest }: ServerSetup,
  { stderr, env, loadFace }: CliEnvironment,
): Promise<CliServer> {
  const { grpcTls } = options;
  const tell = teller(stderr);
  const others = {
    store,
    ...rest,
    ...(options.tcp && tcp && { tcp }),
    ...(options.grpc && grpc && { grpc: { ...grpc, ...(grpcTls && { tls: true }) } }),
    ...((options.quic || grpcTls) && {
      tls: { ...clientCaOf(tls), ...(await identityTls(options, env, tell)) },
    }),
    onError: tell,
  };
  const face = await loadFace();
  if (!options.quic || quic === undefined) return face.startServer(others);
  try {
    return await face.startServer({ ...others, quic });
  } catch (error) {
    // Whoever names no port for QUIC has not asked for it by name.
    const goOn =
      options.quicPort === undefined && !namesIdentity(options) && (options.tcp || options.grpc);
    if (!goOn || !(error instanceof VortexError) || error.code !== "Unavailable") throw error;
    // Some platforms and runtimes have no QUIC; what they have is served all the same.
    tell(error);
    return face.startServer(others);
  }
}

/** Whom clients' certificates must come from stays, whatever certificate is shown to them. */
function clientCaOf(tls: TlsServerOptions | undefined): TlsServerOptions {
  return tls?.clientCa === undefined ? {} : { clientCa: tls.clientCa };
}

async function print(lines: readonly string[], { stdout, signal }: CliEnvironment): Promise<void> {
  for (const line of lines) await writeLine(stdout, line, signal);
}

/** Changes the certificate at each SIGHUP, and prints its fingerprint after what `printing` prints, until the result is called. */
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
      teller(stderr)(VortexError.from(error, "Internal"));
    }
  };
  return onHangup?.(() => void rotate()) ?? (() => {});
}

/** Tells of what goes wrong while the server goes on. */
function teller(stderr: CliEnvironment["stderr"]): (error: VortexError) => void {
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
      `--piece-length ${pieceLength}: expected 1 to ${MAX_PIECE_LENGTH} bytes`,
    );
  }
  const served = new Map<string, Served>();
  for (const path of new Set(files)) {
    const progress = new StatusLine(stderr);
    let shownAt = Number.NEGATIVE_INFINITY;
    const onProgress = (indexed: number, total: number): void => {
      if (performance.now() - shownAt < LOOKS) return;
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
      const before = served.get(task.taskId);
      served.set(task.taskId, {
        paths: before === undefined ? [path] : [...before.paths, path],
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
      named(addresses).map(([name, address]) => [name, formatAddress(address)]),
    ),
    fingerprint,
    tasks: served.map(({ paths, task }) => ({ paths, ...describe(task) })),
  });
}

function asText(server: CliServer, served: Served[], { grpcTls }: ServeOptions): string[] {
  const addresses = named(server.addresses);
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

/** What whoever is on this machine, or puts its address in, may paste. */
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

function named({ quic, tcp, grpc }: CliServer["addresses"]): [name: string, address: Address][] {
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

function fired(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
