/**
 * Test program: one side of a connection, for tests in which a process ends.
 *
 * ```text
 * transport-peer.ts FIXTURE serve TUNING              prints its address, and echoes
 * transport-peer.ts FIXTURE dial TUNING HOST PORT     dials, sends a byte on two streams,
 *                                                     prints a line, and stays
 * transport-peer.ts FIXTURE give-up TUNING HOST PORT  dials a silent peer and aborts, prints
 *                                                     the open sockets, and exits when idle
 * ```
 *
 * FIXTURE is a name in `fixtures`. TUNING is a `TransportTuning` in JSON. With `serve` and `dial`,
 * the program exits when its standard input ends.
 */
import { readdirSync, readlinkSync } from "node:fs";
import process from "node:process";
import { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { ByteStream, Transport } from "../../src/transport/transport.ts";
import { dialAddressOf, type TransportFixture, type TransportTuning } from "./fixture.ts";
import { fixtures } from "./fixtures.ts";

/** Result of the `give-up` role, which the program prints as JSON. */
export interface AbortedDials {
  /** Error code with which each dial was rejected. */
  readonly codes: readonly string[];
  /**
   * Number of open sockets of the process after the second and after the last dial. Undefined on
   * systems other than Linux.
   */
  readonly sockets: readonly [before: number | undefined, after: number | undefined];
}

const [, , name = "", role = "", tuning = "{}", host = "", port = ""] = process.argv;
const parsed = JSON.parse(tuning) as TransportTuning;
/**
 * Time in ms after which a dial is aborted. It is enough for a second attempt if there are several
 * addresses.
 */
const DIAL_TIMEOUT_MS = parsed.addresses === undefined ? 200 : 400;
const fixture = fixtures[name];
if (fixture === undefined)
  throw new Error(`no fixture ${name} here, only ${Object.keys(fixtures).join(", ")}`);
const transport = await fixture.transport(parsed);
const remote: Address = { host, port: Number(port) };
if (role === "serve") await serve(fixture, transport);
else if (role === "dial") await dial(transport, remote);
else await abortDials(transport, remote);

async function serve(fixture: TransportFixture, transport: Transport): Promise<void> {
  const listener = await transport.listen(fixture.listenAddress);
  console.log(JSON.stringify(dialAddressOf(fixture, listener.address)));
  endWithInput();
  for await (const connection of listener.accept()) {
    void (async () => {
      for await (const stream of connection.accept()) echo(stream).catch(() => {});
    })();
  }
}

async function echo({ reader, writer }: ByteStream): Promise<void> {
  for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
    await writer.write(chunk);
  await writer.end();
}

async function dial(transport: Transport, remote: Address): Promise<void> {
  const connection = await transport.dial(remote);
  for (let streams = 0; streams < 2; streams++) {
    const { writer } = await connection.openStream();
    await writer.write(Uint8Array.of(1));
  }
  console.log("dialled");
  endWithInput();
}

/**
 * Starts and aborts several dials. Prints their error codes and the number of open sockets, as
 * {@link AbortedDials}.
 */
async function abortDials(transport: Transport, remote: Address): Promise<void> {
  const codes: string[] = [];
  const attempt = async (): Promise<void> => {
    const error = await transport
      .dial(remote, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
      .catch((error: unknown) => error);
    codes.push(error instanceof VortexError ? error.code : String(error));
  };
  // The first dials may open sockets that the runtime or transport keeps for all.
  await attempt();
  await attempt();
  await pause(500);
  const before = openSockets();
  await attempt();
  await attempt();
  let after = openSockets();
  // Sockets close a little after the abort.
  for (let look = 0; look < 500 && after !== before; look++) {
    await pause(10);
    after = openSockets();
  }
  console.log(JSON.stringify({ codes, sockets: [before, after] } satisfies AbortedDials));
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

/** Returns the number of open sockets of this process, or undefined on systems other than Linux. */
function openSockets(): number | undefined {
  try {
    return readdirSync("/proc/self/fd").filter((entry) => {
      try {
        return readlinkSync(`/proc/self/fd/${entry}`).startsWith("socket:");
      } catch {
        return false;
      }
    }).length;
  } catch {
    return undefined;
  }
}

/** Makes the process exit when its standard input ends, so that it does not outlive its test. */
function endWithInput(): void {
  process.stdin.resume();
  process.stdin.once("end", () => process.exit(0));
}
