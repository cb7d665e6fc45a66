/**
 * Test program that behaves like a stock Dragonfly client: QUIC by quinn, which Deno embeds,
 * without ALPN. Runs on Deno:
 *
 *     deno run --allow-all --unstable-net stock-client.ts PORT FINGERPRINT TASK PIECE
 *
 * Prints JSON: a {@link StockAnswer}, or an object with the error's text in `error`.
 */
import process from "node:process";
import { denoQuic } from "../../adapters/deno-quic/native.ts";
import { crc32, readAnswer, stockRequest } from "./stock-wire.ts";

/** Received piece. */
export interface StockAnswer {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  /** Digest announced by the server. */
  readonly digest: string;
  /** CRC-32 of the received content. */
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
