import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { type Command, Option } from "commander";
import * as v from "valibot";
import type { Downloader } from "../../src/client/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { type PieceKind, pieceKinds } from "../../src/piece.ts";
import { type Protocol, protocols } from "../../src/transport/protocol.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import type { CliFace } from "./face.ts";
import { address, duration, fingerprint, flag, pieceKind, protocol, taskId, text, type Value } from "./values.ts";

/** Which task of which peer, and how to talk to it: what `piece` and `get` have in common. */
export interface PeerOptions {
  readonly peer: string;
  readonly protocol: Protocol;
  readonly taskId: string;
  readonly kind: PieceKind;
  readonly tls: boolean;
  readonly ca?: string | undefined;
  readonly fingerprint?: string[] | undefined;
  readonly insecure: boolean;
  readonly connectTimeout: number;
  readonly pieceTimeout: number;
  readonly stallTimeout: number;
}

/** Adds {@link PeerOptions} to a command. */
export function addPeerOptions(command: Command): Command {
  return command
    .requiredOption("--peer <host:port>", "the peer, at its port for the protocol")
    .addOption(new Option("--protocol <name>", "protocol to fetch over").choices(protocols).default("tcp"))
    .requiredOption("--task-id <id>", "task id, 64 characters")
    .addOption(new Option("--kind <kind>", "kind of piece").choices(pieceKinds).default("standard"))
    .option("--tls", "gRPC over TLS, as --ca, --fingerprint and --insecure have it for --protocol grpc")
    .option("--ca <file>", "quic, grpc: certificate authorities to trust, PEM")
    .option("--fingerprint <hex...>", "quic, grpc: SHA-256 of the peer's certificate, as `serve` prints it")
    .option("--insecure", "quic, grpc: accept any certificate, as stock Dragonfly does")
    .option("--connect-timeout <duration>", "time for a connection to be made", "2s")
    .option("--piece-timeout <duration>", "time for one piece", "360s")
    .option("--stall-timeout <duration>", "time without a byte", "30s");
}

/** The schema of {@link PeerOptions}. */
export const peerEntries: { readonly [Key in keyof PeerOptions]-?: Value<PeerOptions[Key]> } = {
  peer: address,
  protocol,
  taskId,
  kind: pieceKind,
  tls: flag,
  ca: v.optional(text),
  fingerprint: v.optional(v.array(fingerprint)),
  insecure: flag,
  connectTimeout: duration,
  pieceTimeout: duration,
  stallTimeout: duration,
};

/** What asking hosts are called over gRPC. */
export const hostId: string = hostname();

/** How the peer is authenticated: when it is asked for pieces, and when it is asked over gRPC for the length of a task. */
export interface PeerTls {
  /** Undefined where there is no TLS. */
  readonly pieces: TlsClientOptions | undefined;
  readonly stat: TlsClientOptions | undefined;
}

/** What the options say about TLS. Rejects with `InvalidArgument` when they ask for a check that there would not be. */
export async function peerTls(options: PeerOptions): Promise<PeerTls> {
  const { tls, ca, fingerprint: fingerprints, insecure, protocol } = options;
  const given = [ca && "--ca", fingerprints && "--fingerprint", insecure && "--insecure"].filter(Boolean);
  if (protocol === "tcp" && (tls || given.length > 0)) {
    const names = [tls && "--tls", ...given].filter(Boolean).join(", ");
    throw new VortexError("InvalidArgument", `${names}: tcp has no certificates to check, quic and grpc have`);
  }
  if (insecure && given.length > 1) {
    throw new VortexError("InvalidArgument", `${given.join(", ")}: --insecure checks nothing, so give it alone`);
  }
  const trust = insecure
    ? verifyNothing
    : { ...(ca && { ca: await readText(ca) }), ...(fingerprints && { fingerprints }) };
  const overGrpc = tls || (protocol === "grpc" && given.length > 0) ? trust : undefined;
  return { pieces: protocol === "quic" ? trust : overGrpc, stat: overGrpc };
}

const verifyNothing: TlsClientOptions = { verify: false };

/** The downloader that the options describe. */
export function createDownloader(face: CliFace, options: PeerOptions, { pieces: tls }: PeerTls): Downloader {
  const { protocol, connectTimeout, pieceTimeout, stallTimeout } = options;
  return face.createDownloader({ protocol, ...(tls && { tls }), connectTimeout, pieceTimeout, stallTimeout });
}

/** A small file's text. Rejects with `StorageFailed`. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw VortexError.from(error, "StorageFailed", `${path} cannot be read`);
  }
}
