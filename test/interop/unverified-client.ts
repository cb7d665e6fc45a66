/**
 * Test program: fetches a piece with `verify: false`, which needs a flag on Deno. Runs on Deno:
 *
 *     deno run --allow-all --unstable-net [--unsafely-ignore-certificate-errors=d7y] \
 *       unverified-client.ts ADDR TASK PIECE
 *
 * It prints the CRC-32 of the content, or the error's code and message.
 */
import process from "node:process";
import { denoQuicTransport } from "../../adapters/deno-quic/lazy-transport.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { crc32 } from "./stock-wire.ts";

const [, , addr = "", taskId = "", number] = process.argv;
const transport = await denoQuicTransport({ tls: { verify: false } });
await using downloader = new VortexDownloader(
  async () => transport,
  downloaderSettings({}, portableRuntime),
);
try {
  const request = { addr, hostId: "host", taskId, number: Number(number) };
  console.log(crc32(await (await downloader.downloadPiece(request)).bytes()));
} catch (error) {
  if (!(error instanceof VortexError)) throw error;
  console.log(`${error.code}: ${error.message}`);
}
