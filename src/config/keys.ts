/** Table of the configuration keys: location, schema, default and text form of each. */
import * as v from "valibot";
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

/** Full name of a key, sections included, such as `storage.server.quicPort`. */
export type ConfigKey = Names<Config>;

/** Type of the value of a key in {@link Config}. */
export type ValueOf<Key extends ConfigKey> = ValueAt<Config, Key>;

/** Definition of one key. */
export interface KeyDefinition<T> {
  /** Paths at which the value may be found, in order of precedence. */
  readonly paths: readonly (readonly string[])[];
  readonly schema: v.GenericSchema<unknown, T>;
  /** Default value. */
  readonly defaultValue: T;
  /** Formats a value as a file would contain it. */
  format(value: T): string;
}

/** Section of this library, which stock Dragonfly does not have. */
export const ownSection = "vortexPeer";

const protocol = v.picklist(protocolChoices, `expected ${protocolChoices.join(", ")}`);
const concurrency = integer(1, 1024);
const limit = integer(1, 1_000_000);
const day = durationUpTo(1);
const congestionControl = v.picklist(["bbr", "cubic"], "expected bbr, cubic");
const flowWindow = integer(16 * 1024, 2 ** 32 - 1);
const file = text("the name of a file");
const flag = v.boolean("expected true, false");
const fingerprints = v.pipe(
  v.array(fingerprint, "expected a list of SHA-256 fingerprints"),
  v.minLength(1, "expected a list of SHA-256 fingerprints"),
);

/** Definitions of all keys, in the order of a `dfdaemon.yaml`. */
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
  "vortexPeer.connectTimeout": define("vortexPeer.connectTimeout", duration, 2_000, formatDuration),
  "vortexPeer.stallTimeout": define("vortexPeer.stallTimeout", day, 30_000, formatDuration),
  "vortexPeer.patience": define("vortexPeer.patience", patience, 60_000, formatPatience),
  "vortexPeer.requestTimeout": define("vortexPeer.requestTimeout", day, 10_000, formatDuration),
  "vortexPeer.parentConcurrency": define("vortexPeer.parentConcurrency", limit, 32, String),
  "vortexPeer.maxConnections": define("vortexPeer.maxConnections", limit, 1024, String),
  "vortexPeer.maxStreams": define("vortexPeer.maxStreams", limit, 128, String),
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

/** Names of all keys, in the same order. */
export const configKeys: readonly ConfigKey[] = Object.keys(keys) as ConfigKey[];

/** All spellings of the keys in {@link ownSection}. */
export const ownKeys: ReadonlySet<string> = new Set(
  configKeys
    .flatMap((key) => keys[key].paths)
    .filter(([section]) => section === ownSection)
    .map((path) => path.join(".")),
);

/** Formats a duration that may be 0, which is written without a unit. */
function formatPatience(milliseconds: number): string {
  return milliseconds === 0 ? "0" : formatDuration(milliseconds);
}

/** Names of all values in `T`, with sections joined by dots. */
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

/** Defines a key without a default. */
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
 * Returns the paths of a key in camel case (stock Dragonfly) and snake case (its design document).
 */
function spellings(name: string): (readonly string[])[] {
  const path = name.split(".");
  const last = path.pop() ?? "";
  const snake = last.replace(/[A-Z]/g, (upper) => `_${upper.toLowerCase()}`);
  return snake === last
    ? [[...path, last]]
    : [
        [...path, last],
        [...path, snake],
      ];
}
