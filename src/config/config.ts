import * as v from "valibot";
import { type Protocol, protocols } from "../transport/protocol.ts";
import { duration, integer, parseValues, port } from "./values.ts";

/** What this library takes from Dragonfly's `dfdaemon.yaml`, under the same keys, with every default filled in. */
export interface Config {
  readonly download: {
    /** Default `tcp`, as stock Dragonfly. */
    readonly protocol: Protocol;
    /** Milliseconds, 1 to 30 days. Default 360,000. */
    readonly pieceTimeout: number;
    /** Pieces of one task that are fetched at a time, at least 1. Default 8. */
    readonly concurrentPieceCount: number;
  };
  readonly storage: {
    readonly server: {
      /** An IPv4 or IPv6 address. No default. */
      readonly ip: string | undefined;
      /** 0 to 65535. Default 4005. */
      readonly tcpPort: number;
      /** 0 to 65535. Default 4006. */
      readonly quicPort: number;
    };
  };
  readonly upload: {
    readonly server: {
      /** Port of the gRPC service, 0 to 65535. Default 4000. */
      readonly port: number;
    };
  };
}

/**
 * Reads a configuration: the object that a `dfdaemon.yaml` holds, or one like it. Nothing is required, and unknown keys are
 * left alone, since a real file has many. Keys may be spelt as stock Dragonfly does (`quicPort`) or as its design document
 * (`quic_port`); the former counts when both are there. The protocol may stand in `storage.server.protocol` too;
 * `download.protocol` wins. Durations are text with a unit, as in `360s` and `1m30s`.
 *
 * Source of keys and defaults: dragonfly-client, `dragonfly-client-config/src/dfdaemon.rs`.
 *
 * @throws `InvalidArgument` that names each wrong key, its value and what is allowed; its cause is an array of
 * {@link Problem}
 */
export function parseConfig(input: unknown): Config {
  const { download, storage, upload } = parseValues(schema, input, nameOf);
  const { server } = storage;
  return {
    download: {
      protocol: download.protocol ?? server.protocol ?? "tcp",
      pieceTimeout: download.pieceTimeout ?? download.piece_timeout ?? 360_000,
      concurrentPieceCount: download.concurrentPieceCount ?? download.concurrent_piece_count ?? 8,
    },
    storage: {
      server: {
        ip: server.ip ?? undefined,
        tcpPort: server.tcpPort ?? server.tcp_port ?? 4005,
        quicPort: server.quicPort ?? server.quic_port ?? 4006,
      },
    },
    upload: { server: { port: upload.server.port ?? 4000 } },
  };
}

const protocol = v.picklist(protocols, `expected ${protocols.join(", ")}`);
const pieceCount = integer(1, 0xffffffff);
const ip = v.pipe(v.string("expected an IPv4 or IPv6 address"), v.ip("expected an IPv4 or IPv6 address"));

const schema = section({
  download: section({
    protocol: v.nullish(protocol),
    pieceTimeout: v.nullish(duration),
    piece_timeout: v.nullish(duration),
    concurrentPieceCount: v.nullish(pieceCount),
    concurrent_piece_count: v.nullish(pieceCount),
  }),
  storage: section({
    server: section({
      protocol: v.nullish(protocol),
      ip: v.nullish(ip),
      tcpPort: v.nullish(port),
      tcp_port: v.nullish(port),
      quicPort: v.nullish(port),
      quic_port: v.nullish(port),
    }),
  }),
  upload: section({ server: section({ port: v.nullish(port) }) }),
});

/** Keys with their values. A section whose keys are all commented out is null in YAML, and the same as none. */
function section<const Entries extends v.ObjectEntries>(entries: Entries) {
  const expected = "expected keys with values";
  return v.nullish(
    v.pipe(
      v.unknown(),
      v.check((input) => typeof input === "object" && input !== null && !Array.isArray(input), expected),
      v.object(entries),
    ),
    {},
  );
}

function nameOf(path: readonly string[]): string {
  return path.length === 0 ? "configuration" : path.join(".");
}
