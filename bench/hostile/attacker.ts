/** Whoever attacks a server: on Node, in a process of its own. */
import { quicheTransport } from "../../adapters/quiche/transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { obey } from "../program.ts";
import { seededRandom } from "../soak/content.ts";
import type { Attack, Outcomes, Target } from "./attack.ts";
import { connectionAttacks, handshakeAttacks } from "./connections.ts";
import { datagramAttacks } from "./datagrams.ts";
import { http2Attacks } from "./http2.ts";
import { streamAttacks } from "./streams.ts";

const quic = () => quicheTransport({ tls: { verify: false } });
/** Lets no more than 16 KiB of a stream come unread. */
const narrow = () => quicheTransport({ tls: { verify: false }, streamWindow: 16 * 1024 });

/** All attacks on a server. */
export const attacks: readonly Attack[] = [
  ...datagramAttacks(quic),
  ...streamAttacks("quic", quic, narrow),
  ...connectionAttacks("tcp"),
  ...streamAttacks("tcp", async () => tcpTransport),
  ...connectionAttacks("grpc"),
  ...handshakeAttacks,
  ...http2Attacks,
];

/** Attacks at the same time, by their places in {@link attacks}; answered with the {@link Outcomes} of each. */
export interface AttackOrder {
  readonly attacks: readonly {
    readonly index: number;
    readonly target: Target;
    readonly tries: number;
    readonly seed: number;
  }[];
}

/** Takes orders. */
export function playAttacker(): void {
  obey<AttackOrder>(
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
