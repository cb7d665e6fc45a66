/** Attacker process, on Node. */
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { carryOutOrders } from "../program.ts";
import { seededRandom } from "../soak/content.ts";
import type { Attack, Outcomes, Target } from "./attack.ts";
import { connectionAttacks, handshakeAttacks } from "./connections.ts";
import { datagramAttacks } from "./datagrams.ts";
import { http2Attacks } from "./http2.ts";
import { streamAttacks } from "./streams.ts";

const quic = () => quicheTransport({ tls: { verify: false } });
/** Receives at most 16 KiB of a stream ahead of its reader. */
const quicWithSmallWindow = () =>
  quicheTransport({ tls: { verify: false }, streamWindow: 16 * 1024 });

/** All attacks on a server. */
export const attacks: readonly Attack[] = [
  ...datagramAttacks(quic),
  ...streamAttacks("quic", quic, quicWithSmallWindow),
  ...connectionAttacks("tcp"),
  ...streamAttacks("tcp", async () => tcpTransport),
  ...connectionAttacks("grpc"),
  ...handshakeAttacks,
  ...http2Attacks,
];

/**
 * Attacks to run at the same time, by index into {@link attacks}. The answer has the {@link
 * Outcomes} of each.
 */
export interface AttackOrder {
  readonly attacks: readonly {
    readonly index: number;
    readonly target: Target;
    readonly tries: number;
    readonly seed: number;
  }[];
}

/** Runs the attacker process: carries out orders from standard input. */
export function runAttacker(): void {
  carryOutOrders<AttackOrder>(
    (order): Promise<Outcomes[]> =>
      Promise.all(
        order.attacks.map(
          async ({ index, target, tries, seed }) =>
            (await attacks[index]?.run(target, tries, seededRandom(seed))) ?? {},
        ),
      ),
    async () => {},
  );
}
