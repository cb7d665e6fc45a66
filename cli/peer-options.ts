import { type Command, Option } from "commander";
import * as v from "valibot";
import { readText } from "../adapters/files/text.ts";
import { hostName } from "../adapters/shared/host-name.ts";
import type { DownloaderOptions } from "../src/client/factory.ts";
import { VortexError } from "../src/errors.ts";
import { type PieceKind, pieceKinds, type UnverifiedPieces } from "../src/piece.ts";
import { type ProtocolChoice, protocolChoices } from "../src/transport/protocol.ts";
import type { TlsClientOptions } from "../src/transport/tls.ts";
import { addConfigOption, type ConfigFlags, configEntries } from "./effective.ts";
import {
  duration,
  fingerprint,
  flag,
  pieceKind,
  protocol,
  taskId,
  text,
  unverifiedPieces,
  type Value,
} from "./values.ts";

/** Options that identify a task. */
export interface TaskFlags {
  readonly taskId: string;
  readonly kind: PieceKind;
}

/** Options that set how a peer's certificate is verified. */
export interface TrustFlags {
  readonly tls: boolean;
  readonly ca?: string | undefined;
  readonly fingerprint?: string[] | undefined;
  readonly insecure: boolean;
}

/** Options shared by `piece` and `get`. Timeouts are in ms. */
export interface FetchFlags extends ConfigFlags, TaskFlags, TrustFlags {
  readonly protocol?: ProtocolChoice | undefined;
  readonly connectTimeout?: number | undefined;
  readonly pieceTimeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  readonly unverifiedPieces?: UnverifiedPieces | undefined;
}

/** Adds the options of {@link TaskFlags} to a command. */
export function addTaskOptions(command: Command): Command {
  return command
    .requiredOption("--task-id <id>", "task id, 64 characters")
    .addOption(new Option("--kind <kind>", "task kind").choices(pieceKinds).default("standard"));
}

/**
 * Adds the options of {@link FetchFlags} to a command. The help texts state the defaults; the
 * configuration in `effective.ts` applies them.
 */
export function addFetchOptions(command: Command): Command {
  return addConfigOption(addTaskOptions(command))
    .addOption(
      new Option("--protocol <name>", "transfer protocol (default: tcp)").choices(protocolChoices),
    )
    .option(
      "--tls",
      "grpc and the Dragonfly API: use TLS (default: in the clear, like dfdaemon); with --protocol " +
        "grpc implied by --ca, --fingerprint and --insecure",
    )
    .option(
      "--ca <file>",
      "quic, grpc: trust the certificate authorities in this PEM file (default: those of the " +
        "runtime); auto and hybrid then use QUIC, and no TCP",
    )
    .option(
      "--fingerprint <hex...>",
      "quic, grpc: trust the certificate with this SHA-256, 64 hex digits with or without colons, " +
        "as printed by `serve`; repeatable (default: trust by authority); auto and hybrid then use " +
        "QUIC, and no TCP",
    )
    .option(
      "--insecure",
      "quic, grpc: accept any certificate, like dfdaemon (default: check it); not with --ca or " +
        "--fingerprint; auto and hybrid then use TCP and gRPC, and no QUIC",
    )
    .option("--connect-timeout <duration>", "timeout for connecting (default: 2s)")
    .option("--piece-timeout <duration>", "timeout for one piece (default: 360s)")
    .option("--stall-timeout <duration>", "timeout without received bytes (default: 30s)")
    .addOption(
      new Option(
        "--unverified-pieces <policy>",
        "pieces that a peer announces without a digest (default: accept)",
      ).choices(["accept", "refuse"]),
    );
}

type Entries<Flags> = { readonly [Key in keyof Flags]-?: Value<Flags[Key]> };

/** Validation schema of {@link TaskFlags}. */
export const taskEntries: Entries<TaskFlags> = { taskId, kind: pieceKind };

/** Validation schema of {@link TrustFlags}. */
export const trustEntries: Entries<TrustFlags> = {
  tls: flag,
  ca: v.optional(text),
  fingerprint: v.optional(v.array(fingerprint)),
  insecure: flag,
};

/** Validation schema of {@link FetchFlags}. */
export const fetchEntries: Entries<FetchFlags> = {
  ...configEntries,
  ...taskEntries,
  ...trustEntries,
  protocol: v.optional(protocol),
  connectTimeout: v.optional(duration),
  pieceTimeout: v.optional(duration),
  stallTimeout: v.optional(duration),
  unverifiedPieces: v.optional(unverifiedPieces),
};

/**
 * Returns the host id that requests to peers carry: the host name, or `vortex-peer` when the
 * runtime does not permit reading it.
 */
export function hostId(): string {
  return hostName() ?? "vortex-peer";
}

/** TLS options for connections to peers. */
export interface PeerTls {
  /** For piece downloads. */
  readonly tls?: TlsClientOptions;
  /** For the Dragonfly API. */
  readonly apiTls?: TlsClientOptions;
}

/**
 * Converts the trust options to TLS options. Without trust options the result is empty, and the
 * configuration applies.
 *
 * Rejects with `InvalidArgument` when a trust option is combined with `tcp`, which has no TLS.
 */
export async function peerTls(
  flags: TrustFlags,
  { protocol, tls: configured }: DownloaderOptions,
): Promise<PeerTls> {
  const given = trustFlagNames(flags);
  if (protocol === "tcp" && (flags.tls || given.length > 0)) {
    const names = [flags.tls && "--tls", ...given].filter(Boolean).join(", ");
    throw new VortexError(
      "InvalidArgument",
      `${names}: expected a protocol with TLS, such as quic or grpc, got tcp; set --protocol`,
    );
  }
  if (!flags.tls && given.length === 0) return {};
  const tls = given.length > 0 ? await trustOptions(flags) : (configured ?? {});
  return { tls, ...((flags.tls || protocol === "grpc") && { apiTls: tls }) };
}

/**
 * Converts `--ca`, `--fingerprint` and `--insecure` to TLS options. Rejects with `InvalidArgument`
 * when they contradict each other, and with `StorageFailed` when the CA file cannot be read.
 */
export async function trustOptions(flags: TrustFlags): Promise<TlsClientOptions> {
  const { ca, fingerprint: fingerprints, insecure } = flags;
  const given = trustFlagNames(flags);
  if (insecure && given.length > 1) {
    throw new VortexError(
      "InvalidArgument",
      `${given.join(", ")}: expected --insecure or certificate checks, got both`,
    );
  }
  if (insecure) return { verify: false };
  return {
    ...(ca !== undefined && { ca: await readText(ca) }),
    ...(fingerprints && { fingerprints }),
  };
}

/** Returns the names of the trust options that are set. */
export function trustFlagNames({ ca, fingerprint, insecure }: TrustFlags): string[] {
  return [
    ca !== undefined && "--ca",
    fingerprint && "--fingerprint",
    insecure && "--insecure",
  ].filter((name) => typeof name === "string");
}
