/**
 * A client that behaves as a stock Dragonfly client does: quinn, which Deno has inside, and no name for the application
 * protocol. For Deno:
 *
 *     deno run --allow-all --unstable-net stock-client.ts PORT FINGERPRINT TASK PIECE
 *
 * Prints what it got as JSON: a {@link StockAnswer}, or the error's text in `error`.
 */
import process from "node:process";
import { denoQuic } from "../../adapters/deno-quic/native.ts";
import { crc32, readAnswer, stockRequest } from "./stock-wire.ts";

/** What came. */
export interface StockAnswer {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  /** As announced, and as it is. */
  readonly digest: string;
  readonly crc32: number;
}

async function fetchPiece(
  port: number,
  pin: string,
  taskId: string,
  number: number,
): Promise<StockAnswer> {
  const connection = await denoQuic().connectQuic({
    hostname: "127.0.0.1",
    port,
    serverName: "d7y",
    alpnProtocols: [],
    serverCertificateHashes: [{ algorithm: "sha-256", value: bytesOf(pin) }],
    zeroRtt: false,
    maxIdleTimeout: 30_000,
    maxConcurrentBidirectionalStreams: 0,
    maxConcurrentUnidirectionalStreams: 0,
    congestionControl: "default",
  });
  const { readable, writable } = await connection.createBidirectionalStream({
    waitUntilAvailable: true,
  });
  const writer = writable.getWriter();
  await writer.write(stockRequest(9, taskId, number));
  await writer.close();
  const answer = new Uint8Array(await new Response(readable).arrayBuffer());
  connection.close({ closeCode: 0, reason: "" });
  const { content, ...rest } = readAnswer(answer);
  return { ...rest, length: content.length, crc32: crc32(content) };
}

function bytesOf(fingerprint: string): Uint8Array {
  return Uint8Array.from(fingerprint.replaceAll(":", "").match(/../g) ?? [], (pair) =>
    Number.parseInt(pair, 16),
  );
}

const [, , port, pin = "", taskId = "", number] = process.argv;
const outcome = await fetchPiece(Number(port), pin, taskId, Number(number)).catch(
  (error: unknown) => ({
    error: error instanceof Error ? error.message : String(error),
  }),
);
console.log(JSON.stringify(outcome));
process.exit(0);
