/** What the serving process tells. */
export interface ServeReport {
  readonly taskId: string;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly pieceCount: number;
  readonly sha256: string;
  readonly fingerprint: string;
  readonly addresses: { readonly quic: string; readonly tcp: string; readonly grpc: string };
}

/** What the fetching process is told. */
export interface FetchOrder extends ServeReport {
  readonly protocol: "quic" | "tcp" | "grpc";
  readonly output: string;
  readonly concurrency: string;
}

/** What the fetching process tells. */
export interface FetchReport {
  readonly protocol: string;
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Bytes. */
  readonly peakMemory: number;
  readonly sha256: string;
}
