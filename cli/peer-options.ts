import { type Command, Option } from "commander";
import * as v from "valibot";
import { readText } from "../adapters/files/text.ts";
import { hostName } from "../adapters/shared/host-name.ts";
import type { CreateDownloaderOptions } from "../src/client/factory.ts";
import { VortexError } from "../src/errors.ts";
import { type PieceKind, pieceKinds } from "../src/piece.ts";
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
  type Value,
} from "./values.ts";

/** Which task. */
export interface TaskFlags {
  readonly taskId: string;
  readonly kind: PieceKind;
}

/** Whom to trust. */
export interface TrustFlags {
  readonly tls: boolean;
  readonly ca?: string | undefined;
  readonly fingerprint?: string[] | undefined;
  readonly insecure: boolean;
}

/** How to fetch: what `piece` and `get` have in common. */
export interface FetchFlags extends ConfigFlags, TaskFlags, TrustFlags {
  readonly protocol?: ProtocolChoice | undefined;
  readonly connectTimeout?: number | undefined;
  readonly pieceTimeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
}

/** Adds {@link TaskFlags} to a command. */
export function addTaskOptions(command: Command): Command {
  return command
    .requiredOption("--task-id <id>", "task id, 64 characters")
    .addOption(new Option("--kind <kind>", "kind of task").choices(pieceKinds).default("standard"));
}

/** Adds {@link FetchFlags} to a command. Defaults are named here, and filled in by `effective.ts`. */
export function addFetchOptions(command: Command): Command {
  return addConfigOption(addTaskOptions(command))
    .addOption(
      new Option("--protocol <name>", "protocol to fetch over (default: tcp)").choices(
        protocolChoices,
      ),
    )
    .option(
      "--tls",
      "grpc, and what peers are asked of a task: over TLS, as --ca, --fingerprint and --insecure make it for --protocol grpc",
    )
    .option(
      "--ca <file>",
      "quic, grpc: certificate authorities to trust, PEM; auto and hybrid then leave out tcp",
    )
    .option(
      "--fingerprint <hex...>",
      "quic, grpc: SHA-256 of the peer's certificate, as `serve` prints it; auto and hybrid then leave out tcp",
    )
    .option(
      "--insecure",
      "quic, grpc: accept any certificate, as stock Dragonfly does; auto and hybrid go on using tcp",
    )
    .option("--connect-timeout <duration>", "time for a connection to be made (default: 2s)")
    .option("--piece-timeout <duration>", "time for one piece (default: 360s)")
    .option("--stall-timeout <duration>", "time without a byte (default: 30s)");
}

type Entries<Flags> = { readonly [Key in keyof Flags]-?: Value<Flags[Key]> };

/** The schema of {@link TaskFlags}. */
export const taskEntries: Entries<TaskFlags> = { taskId, kind: pieceKind };

/** The schema of {@link TrustFlags}. */
export const trustEntries: Entries<TrustFlags> = {
  tls: flag,
  ca: v.optional(text),
  fingerprint: v.optional(v.array(fingerprint)),
  insecure: flag,
};

/** The schema of {@link FetchFlags}. */
export const fetchEntries: Entries<FetchFlags> = {
  ...configEntries,
  ...taskEntries,
  ...trustEntries,
  protocol: v.optional(protocol),
  connectTimeout: v.optional(duration),
  pieceTimeout: v.optional(duration),
  stallTimeout: v.optional(duration),
};

/** Returns what peers are told as the id of the asking host: its name, and a word where the runtime keeps that secret. */
export function hostId(): string {
  return hostName() ?? "vortex-peer";
}

/** How peers are authenticated: when they are asked for pieces, and when they are asked over the Dragonfly API. */
export interface PeerTls {
  readonly tls?: TlsClientOptions;
  readonly apiTls?: TlsClientOptions;
}

/**
 * What the options say about TLS; nothing where they say nothing, and what the configuration says holds.
 * Rejects with `InvalidArgument` when they ask for a check that there would not be.
 */
export async function peerTls(
  flags: TrustFlags,
  { protocol, tls: configured }: CreateDownloaderOptions,
): Promise<PeerTls> {
  const given = givenTrust(flags);
  if (protocol === "tcp" && (flags.tls || given.length > 0)) {
    const names = [flags.tls && "--tls", ...given].filter(Boolean).join(", ");
    throw new VortexError(
      "InvalidArgument",
      `${names}: tcp has no certificates to check, quic and grpc have`,
    );
  }
  if (!flags.tls && given.length === 0) return {};
  const tls = given.length > 0 ? await trustOf(flags) : (configured ?? {});
  return { tls, ...((flags.tls || protocol === "grpc") && { apiTls: tls }) };
}

/** Whom the options trust. Rejects with `InvalidArgument` when they contradict each other, `StorageFailed` for a file. */
export async function trustOf(flags: TrustFlags): Promise<TlsClientOptions> {
  const { ca, fingerprint: fingerprints, insecure } = flags;
  const given = givenTrust(flags);
  if (insecure && given.length > 1) {
    throw new VortexError(
      "InvalidArgument",
      `${given.join(", ")}: --insecure checks nothing, so give it alone`,
    );
  }
  if (insecure) return { verify: false };
  return {
    ...(ca !== undefined && { ca: await readText(ca) }),
    ...(fingerprints && { fingerprints }),
  };
}

/** The options that say whom to trust, by name. */
export function givenTrust({ ca, fingerprint, insecure }: TrustFlags): string[] {
  return [
    ca !== undefined && "--ca",
    fingerprint && "--fingerprint",
    insecure && "--insecure",
  ].filter((name) => typeof name === "string");
}
