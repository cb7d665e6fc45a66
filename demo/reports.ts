/** Output of the serving process. */
export interface ServeReport {
  readonly taskId: string;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly pieceCount: number;
  readonly sha256: string;
  readonly fingerprint: string;
  readonly addresses: { readonly quic: string; readonly tcp: string; readonly grpc: string };
}

/** Argument of the fetching process. */
export interface FetchOrder extends ServeReport {
  readonly protocol: "quic" | "tcp" | "grpc";
  readonly output: string;
  readonly concurrency: string;
}

/** Output of the fetching process. */
export interface FetchReport {
  readonly protocol: string;
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Maximum resident memory in bytes. */
  readonly peakMemory: number;
  readonly sha256: string;
}
