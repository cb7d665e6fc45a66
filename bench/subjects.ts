/** The list of what is measured, and on which runtimes. Each is loaded where it is used only, since loading takes memory. */
import type { Subject } from "./subject.ts";

/** The runtimes. */
export type RuntimeName = "node" | "bun" | "deno";

/** One thing to measure. */
export interface SubjectEntry {
  /** As rows are named, and chosen by `--only`. */
  readonly name: string;
  /** As tables and plots name it. */
  readonly title: string;
  /**
   * `sdk`: this library through its public API. `grpc`: what it is to be compared with. `control`: the same requests without
   * this library.
   */
  readonly kind: "sdk" | "grpc" | "control";
  readonly runtimes: readonly RuntimeName[];
  /** Whether its connections are measured from the dial to the first byte. */
  readonly firstByte?: "cold" | "resuming";
  /** Left out of a quick run. */
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

/** The subject of that name. */
export function subjectNamed(name: string): SubjectEntry {
  const found = subjects.find((subject) => subject.name === name);
  if (found === undefined)
    throw new Error(`${name}: expected one of ${subjects.map((each) => each.name).join(", ")}`);
  return found;
}

/** A binding of QUIC: through the public API, the same without verification, and its bare loop. */
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
