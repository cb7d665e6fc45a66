/** Table of the configuration keys: location, schema, default and text form of each. */
import * as v from "valibot";
import { idVersions } from "../ids.ts";
import { protocolChoices } from "../transport/protocol.ts";
import { formatDuration } from "./duration.ts";
import type { Config } from "./sections.ts";
import { formatSize } from "./size.ts";
import {
  bandwidth,
  duration,
  durationUpTo,
  fingerprint,
  integer,
  ip,
  patience,
  port,
  text,
} from "./values.ts";

/** Full name of a configuration key including its sections, such as `storage.server.quicPort`. */
export type ConfigKey = Names<Config>;

/** Type that the value of a configuration key has in {@link Config}. */
export type ValueOf<Key extends ConfigKey> = ValueAt<Config, Key>;

/** Definition of one configuration key. */
export interface KeyDefinition<T> {
  /**
   * Paths of section names and key name under which the value may be found. If several paths have a
   * value, the first path has precedence.
   */
  readonly paths: readonly (readonly string[])[];
  readonly schema: v.GenericSchema<unknown, T>;
  /** Value of the key if no configuration layer sets it. */
  readonly defaultValue: T;
  /** Formats a value in the form in which a configuration file would contain it. */
  format(value: T): string;
}

/** Name of the configuration section for options that only this library has. */
export const ownSection = "vortexPeer";

const protocol = v.picklist(protocolChoices, `expected ${protocolChoices.join(", ")}`);
const idVersion = v.picklist(idVersions, `expected ${idVersions.join(", ")}`);
const concurrency = integer(1, 1024);
const limit = integer(1, 1_000_000);
const day = durationUpTo(1);
const congestionControl = v.picklist(["bbr", "cubic"], "expected bbr, cubic");
const unverifiedPieces = v.picklist(["accept", "refuse"], "expected accept, refuse");
const flowWindow = integer(16 * 1024, 2 ** 32 - 1);
const file = text("the name of a file");
const flag = v.boolean("expected true, false");
const fingerprints = v.pipe(
  v.array(fingerprint, "expected a list of SHA-256 fingerprints"),
  v.minLength(1, "expected a list of SHA-256 fingerprints"),
);

/** Definitions of all configuration keys, in the order of `dfdaemon.yaml`. */
export const keys: { readonly [Key in ConfigKey]: KeyDefinition<ValueOf<Key>> } = {
  "host.ip": optional("host.ip", ip, String),
  "host.hostname": optional("host.hostname", text("the name of a host"), String),
  "download.protocol": define(
    "download.protocol",
    protocol,
    "tcp",
    String,
    "storage.server.protocol",
  ),
  "download.bandwidthLimit": optional(
    "download.bandwidthLimit",
    bandwidth,
    formatSize,
    "download.rateLimit",
  ),
  "download.pieceTimeout": define("download.pieceTimeout", duration, 360_000, formatDuration),
  "download.concurrentPieceCount": define("download.concurrentPieceCount", concurrency, 8, String),
  "upload.bandwidthLimit": optional(
    "upload.bandwidthLimit",
    bandwidth,
    formatSize,
    "upload.rateLimit",
  ),
  "upload.server.ip": optional("upload.server.ip", ip, String),
  "upload.server.port": define("upload.server.port", port, 4000, String),
  "upload.server.caCert": optional("upload.server.caCert", file, String),
  "upload.server.cert": optional("upload.server.cert", file, String),
  "upload.server.key": optional("upload.server.key", file, String),
  "upload.client.caCert": optional("upload.client.caCert", file, String),
  "upload.client.cert": optional("upload.client.cert", file, String),
  "upload.client.key": optional("upload.client.key", file, String),
  "storage.server.ip": optional("storage.server.ip", ip, String),
  "storage.server.tcpPort": define("storage.server.tcpPort", port, 4005, String),
  "storage.server.quicPort": define("storage.server.quicPort", port, 4006, String),
  "network.enableIPv6": define("network.enableIPv6", flag, false, String),
  "vortexPeer.connectTimeout": define("vortexPeer.connectTimeout", duration, 2_000, formatDuration),
  "vortexPeer.stallTimeout": define("vortexPeer.stallTimeout", day, 30_000, formatDuration),
  "vortexPeer.patience": define("vortexPeer.patience", patience, 60_000, formatPatience),
  "vortexPeer.unverifiedPieces": define(
    "vortexPeer.unverifiedPieces",
    unverifiedPieces,
    "accept",
    String,
  ),
  "vortexPeer.requestTimeout": define("vortexPeer.requestTimeout", day, 10_000, formatDuration),
  "vortexPeer.parentConcurrency": define("vortexPeer.parentConcurrency", limit, 32, String),
  "vortexPeer.maxConnections": define("vortexPeer.maxConnections", limit, 1024, String),
  "vortexPeer.maxStreams": define("vortexPeer.maxStreams", limit, 128, String),
  "vortexPeer.idVersion": define("vortexPeer.idVersion", idVersion, "1.5.3", String),
  "vortexPeer.pool.connectionsPerAddress": define(
    "vortexPeer.pool.connectionsPerAddress",
    integer(1, 64),
    1,
    String,
  ),
  "vortexPeer.pool.capacity": define("vortexPeer.pool.capacity", limit, 2_000, String),
  "vortexPeer.pool.idleTimeout": define(
    "vortexPeer.pool.idleTimeout",
    duration,
    420_000,
    formatDuration,
  ),
  "vortexPeer.pool.cleanupInterval": define(
    "vortexPeer.pool.cleanupInterval",
    duration,
    60_000,
    formatDuration,
  ),
  "vortexPeer.quic.earlyData": define("vortexPeer.quic.earlyData", flag, true, String),
  "vortexPeer.quic.caCert": optional("vortexPeer.quic.caCert", file, String),
  "vortexPeer.quic.fingerprints": optional(
    "vortexPeer.quic.fingerprints",
    fingerprints,
    (all) => `[${all.join(", ")}]`,
  ),
  "vortexPeer.quic.verify": define("vortexPeer.quic.verify", flag, true, String),
  "vortexPeer.quic.congestionControl": optional(
    "vortexPeer.quic.congestionControl",
    congestionControl,
    String,
  ),
  "vortexPeer.quic.udpPayloadSize": optional(
    "vortexPeer.quic.udpPayloadSize",
    integer(1200, 16_383),
    String,
  ),
  "vortexPeer.quic.streamWindow": optional("vortexPeer.quic.streamWindow", flowWindow, String),
  "vortexPeer.quic.connectionWindow": optional(
    "vortexPeer.quic.connectionWindow",
    flowWindow,
    String,
  ),
  "vortexPeer.quic.socketBuffer": optional(
    "vortexPeer.quic.socketBuffer",
    integer(4096, 2 ** 30),
    String,
  ),
  "vortexPeer.quic.ackThreshold": optional("vortexPeer.quic.ackThreshold", integer(1, 64), String),
};

/** Full names of all configuration keys, in the order of `dfdaemon.yaml`. */
export const configKeys: readonly ConfigKey[] = Object.keys(keys) as ConfigKey[];

/** Full names of all keys in the section `vortexPeer`, in every accepted spelling. */
export const ownKeys: ReadonlySet<string> = new Set(
  configKeys
    .flatMap((key) => keys[key].paths)
    .filter(([section]) => section === ownSection)
    .map((path) => path.join(".")),
);

/**
 * Formats a duration in ms that may be 0. Zero is written without a unit, unlike in
 * {@link formatDuration}.
 */
function formatPatience(milliseconds: number): string {
  return milliseconds === 0 ? "0" : formatDuration(milliseconds);
}

/** Union of the full names of all keys in the type `T`. Section names are joined by dots. */
type Names<T, Prefix extends string = ""> = {
  [Key in keyof T & string]: T[Key] extends Value
    ? `${Prefix}${Key}`
    : Names<T[Key], `${Prefix}${Key}.`>;
}[keyof T & string];

type Value = string | number | boolean | readonly string[] | undefined;

type ValueAt<T, Name extends string> = Name extends `${infer Section}.${infer Rest}`
  ? Section extends keyof T
    ? ValueAt<T[Section], Rest>
    : never
  : Name extends keyof T
    ? T[Name]
    : never;

function define<T>(
  name: string,
  schema: v.GenericSchema<unknown, T>,
  defaultValue: T,
  format: (value: T) => string,
  ...others: readonly string[]
): KeyDefinition<T> {
  return { paths: [name, ...others].flatMap(spellings), schema, defaultValue, format };
}

/** Defines a configuration key whose default value is undefined. */
function optional<T>(
  name: string,
  schema: v.GenericSchema<unknown, T>,
  format: (value: T) => string,
  ...others: readonly string[]
): KeyDefinition<T | undefined> {
  return define<T | undefined>(
    name,
    schema,
    undefined,
    (value) => (value === undefined ? "" : format(value)),
    ...others,
  );
}

/**
 * Returns the paths of a key in camel case, as in stock Dragonfly, and in snake case, as in its
 * design document. Returns one path if both spellings are equal.
 */
function spellings(name: string): (readonly string[])[] {
  const path = name.split(".");
  const last = path.pop() ?? "";
  // An acronym is one word: `enableIPv6` becomes `enable_ipv6`.
  const snake = last.replace(/([a-z0-9])([A-Z]+)/g, "$1_$2").toLowerCase();
  return snake === last
    ? [[...path, last]]
    : [
        [...path, last],
        [...path, snake],
      ];
}
