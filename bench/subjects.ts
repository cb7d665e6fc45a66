/**
 * List of the measured subjects and their runtimes. Each is loaded only where it is used, since
 * loading takes memory.
 */
import type { Subject } from "./subject.ts";

/** Names of the runtimes. */
export type RuntimeName = "node" | "bun" | "deno";

/** Measured subject. */
export interface SubjectEntry {
  /** Name in rows, and for `--only`. */
  readonly name: string;
  /** Title in tables and plots. */
  readonly title: string;
  /**
   * `sdk`: this library through its public API. `grpc`: gRPC for comparison. `control`: the same
   * requests without this library.
   */
  readonly kind: "sdk" | "grpc" | "control";
  readonly runtimes: readonly RuntimeName[];
  /** Kind of first-byte measurement; absent for none. `resuming` adds known peers and 0-RTT. */
  readonly firstByte?: "cold" | "resuming";
  /** True to leave the subject out of a quick run. */
  readonly informative?: boolean;
  load(): Promise<Subject>;
}

const everywhere: readonly RuntimeName[] = ["node", "bun", "deno"];

/** All subjects. */
export const subjects: readonly SubjectEntry[] = [
  ...quicSubjects("quiche", "quiche", ["node", "bun"]),
  ...quicSubjects("node", "node:quic", ["bun"]),
  ...quicSubjects("deno", "Deno's", ["deno"]),
  {
    name: "tcp",
    title: "TCP",
    kind: "sdk",
    runtimes: everywhere,
    firstByte: "cold",
    load: async () => (await import("./subjects/sdk.ts")).tcp,
  },
  {
    name: "raw-tcp",
    title: "raw node:net, a connection per request",
    kind: "control",
    runtimes: everywhere,
    load: async () => (await import("./subjects/raw-tcp.ts")).perRequest,
  },
  {
    name: "raw-tcp-kept",
    title: "raw node:net, one connection",
    kind: "control",
    runtimes: everywhere,
    informative: true,
    load: async () => (await import("./subjects/raw-tcp.ts")).kept,
  },
  {
    name: "grpc",
    title: "gRPC of this library",
    kind: "sdk",
    runtimes: everywhere,
    firstByte: "cold",
    load: async () => (await import("./subjects/sdk.ts")).grpc,
  },
  {
    name: "grpc-tuned",
    title: "gRPC by Connect, tuned",
    kind: "grpc",
    runtimes: everywhere,
    load: async () => (await import("./subjects/grpc-connect.ts")).grpcTuned,
  },
  {
    name: "grpc-shipped",
    title: "gRPC by Connect, as shipped",
    kind: "grpc",
    runtimes: everywhere,
    firstByte: "cold",
    load: async () => (await import("./subjects/grpc-connect.ts")).grpcShipped,
  },
  {
    name: "http",
    title: "fetch from the runtime's HTTP server",
    kind: "control",
    runtimes: everywhere,
    load: async () => (await import("./subjects/http.ts")).http,
  },
];

/** Returns the subject with this name. */
export function subjectNamed(name: string): SubjectEntry {
  const found = subjects.find((subject) => subject.name === name);
  if (found === undefined)
    throw new Error(`${name}: expected one of ${subjects.map((each) => each.name).join(", ")}`);
  return found;
}

/**
 * Lists the subjects of a QUIC binding: the public API, the same without verification, and the bare
 * loop.
 */
function quicSubjects(
  binding: "quiche" | "node" | "deno",
  title: string,
  runtimes: readonly RuntimeName[],
): SubjectEntry[] {
  return [
    {
      name: `quic-${binding}`,
      title: `QUIC (${title})`,
      kind: "sdk",
      runtimes,
      firstByte: "resuming",
      load: async () => (await import("./subjects/sdk.ts")).quic(binding),
    },
    {
      name: `quic-${binding}-unverified`,
      title: `QUIC (${title}), no digest`,
      kind: "control",
      runtimes,
      load: async () => (await import("./subjects/sdk.ts")).quicUnverified(binding),
    },
    {
      name: `bare-${binding}`,
      title: `bare loop (${title})`,
      kind: "control",
      runtimes,
      load: () => bare[binding](),
    },
  ];
}

const bare = {
  quiche: async (): Promise<Subject> => (await import("./subjects/bare-quiche.ts")).bareQuiche,
  node: async (): Promise<Subject> => (await import("./subjects/bare-node-quic.ts")).bareNodeQuic,
  deno: async (): Promise<Subject> => (await import("./subjects/bare-deno-quic.ts")).bareDenoQuic,
};
