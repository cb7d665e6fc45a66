import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  isAnswer,
  type RaceOptions,
  type RaceResult,
  raceProtocols,
} from "../../../src/client/auto/protocol-race.ts";
import { type ErrorCode, errorCodes, VortexError } from "../../../src/errors.ts";
import {
  type AddressDial,
  ATTEMPT_DELAY_MS,
  dialAddresses,
  interleaveFamilies,
  MAX_ADDRESSES,
} from "../../../src/transport/happy-eyeballs.ts";
import type { Protocol } from "../../../src/transport/protocol.ts";
import { StaggeredRace } from "../../../src/transport/staggered-race.ts";
import { assertRejects, rejectionOf } from "../../support/failures.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { seededRandom } from "../../support/random.ts";

const failure = (code: ErrorCode, message: string = code): VortexError =>
  new VortexError(code, message);

describe("StaggeredRace", () => {
  it("starts one attempt after the other, and marks the last", () => {
    const race = new StaggeredRace(3);
    assert.deepEqual(race.advance(), { type: "start", attempt: 0, last: false });
    assert.deepEqual(race.failed(0), { type: "start", attempt: 1, last: false });
    assert.deepEqual(race.advance(), { type: "start", attempt: 2, last: true });
    assert.deepEqual(race.advance(), { type: "wait" });
    assert.equal(race.over, false);
  });

  it("is exhausted by the last failure, in any order of failures", () => {
    const race = new StaggeredRace(2);
    race.advance();
    race.advance();
    assert.deepEqual(race.failed(1), { type: "wait" });
    assert.equal(race.over, false);
    assert.deepEqual(race.failed(0), { type: "exhausted" });
    assert.equal(race.over, true);
  });

  it("ends with a winner or a stop, which return the attempts to abort", () => {
    const won = new StaggeredRace(3);
    won.advance();
    won.advance();
    assert.deepEqual(won.won(1), [0]);
    const stopped = new StaggeredRace(3);
    stopped.advance();
    stopped.advance();
    assert.deepEqual(stopped.stop(), [0, 1]);
    for (const race of [won, stopped]) {
      assert.equal(race.over, true);
      assert.deepEqual([race.advance(), race.failed(0)], [{ type: "wait" }, { type: "wait" }]);
    }
  });

  it("starts each attempt once and ends once, for any sequence of events", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const draw = seededRandom(seed);
      const next = (below: number): number => Math.floor(draw() * below);
      const attempts = 1 + next(5);
      const race = new StaggeredRace(attempts);
      const running = new Set<number>();
      const started: number[] = [];
      let ends = 0;
      const follow = (step: ReturnType<StaggeredRace["advance"]>): void => {
        if (step.type === "start") {
          assert.equal(step.last, step.attempt === attempts - 1);
          started.push(step.attempt);
          running.add(step.attempt);
        } else if (step.type === "exhausted") {
          assert.equal(running.size, 0);
          ends++;
        }
      };
      follow(race.advance());
      for (let events = 0; events < 20 && ends === 0; events++) {
        const one = [...running][next(running.size)];
        const event = next(8);
        if (event < 3 || one === undefined) {
          follow(race.advance());
        } else if (event < 7) {
          running.delete(one);
          follow(race.failed(one));
        } else {
          running.delete(one);
          assert.deepEqual(race.won(one), [...running]);
          ends++;
        }
        assert.deepEqual(
          started,
          started.map((_, at) => at),
        );
        assert.equal(race.over, ends === 1);
      }
      const before = started.length;
      if (race.over) for (const one of running) follow(race.failed(one));
      if (race.over) assert.deepEqual([started.length, ends], [before, 1], `seed ${seed}`);
    }
  });
});

/** Attempt that the test settles. */
interface Attempt<C, T> {
  readonly candidate: C;
  readonly signal: AbortSignal;
  readonly reason: string;
  succeed(result: T): Promise<void>;
  fail(error: VortexError): Promise<void>;
}

/** Signal that counts its listeners. */
function countedSignal(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  let listeners = 0;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<AbortSignal["addEventListener"]>) => {
    listeners++;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<AbortSignal["removeEventListener"]>) => {
    listeners--;
    remove(...args);
  };
  return { controller, listeners: () => listeners };
}

interface ProtocolRace {
  readonly clock: FakeClock;
  readonly attempts: Attempt<Protocol, string>[];
  readonly discarded: string[];
  readonly lost: Protocol[];
  readonly result: Promise<RaceResult<string>>;
}

function race(options: Partial<RaceOptions<string>> = {}): ProtocolRace {
  const clock = new FakeClock();
  const attempts: Attempt<Protocol, string>[] = [];
  const discarded: string[] = [];
  const lost: Protocol[] = [];
  const result = raceProtocols<string>({
    candidates: ["quic", "tcp", "grpc"],
    excluded: [],
    delay: 250,
    clock,
    signal: undefined,
    addr: "peer:1",
    trust: "named",
    run: (candidate, signal, reason) =>
      new Promise((resolve, reject) => {
        attempts.push({
          candidate,
          signal,
          reason,
          succeed: (value) => {
            resolve(value);
            return settle();
          },
          fail: (error) => {
            reject(error);
            return settle();
          },
        });
      }),
    discard: (value) => void discarded.push(value),
    onLost: (protocol) => void lost.push(protocol),
    ...options,
  });
  result.catch(() => {});
  return { clock, attempts, discarded, lost, result };
}

const started = ({ attempts }: ProtocolRace): Protocol[] =>
  attempts.map(({ candidate }) => candidate);

describe("a race of protocols", () => {
  it("starts the next protocol after the delay, each with a full delay, and reports the reason", async () => {
    const running = race({ excluded: ["quic: excluded"] });
    await running.clock.advance(249);
    assert.deepEqual(started(running), ["quic"]);
    await running.clock.advance(1);
    assert.deepEqual(started(running), ["quic", "tcp"]);
    await running.clock.advance(100);
    await running.attempts[0]?.fail(failure("ConnectionRefused"));
    // The failure starts the next protocol, and restarts the delay.
    assert.deepEqual(started(running), ["quic", "tcp", "grpc"]);
    assert.equal(running.clock.pending, 0);
    await running.attempts[2]?.succeed("piece");
    const reason =
      "quic: excluded; quic: ConnectionRefused, ConnectionRefused; quic had not answered within 250 ms";
    assert.equal(running.attempts[2]?.reason, reason);
    assert.deepEqual(await running.result, {
      protocol: "grpc",
      reason,
      answer: { result: "piece" },
    });
  });

  it("restarts the delay when a failure has started the next protocol", async () => {
    const running = race();
    await running.clock.advance(200);
    await running.attempts[0]?.fail(failure("ConnectionRefused"));
    await running.clock.advance(249);
    assert.deepEqual(started(running), ["quic", "tcp"]);
    await running.clock.advance(1);
    assert.deepEqual(started(running), ["quic", "tcp", "grpc"]);
  });

  it("goes on with an earlier protocol when the last one fails", async () => {
    const running = race();
    await running.clock.advance(500);
    await running.attempts[2]?.fail(failure("ConnectionRefused"));
    await running.attempts[1]?.fail(failure("Unreachable"));
    await running.attempts[0]?.succeed("late");
    assert.deepEqual(await running.result, {
      protocol: "quic",
      reason: "tried first",
      answer: { result: "late" },
    });
    assert.deepEqual([running.discarded, running.lost], [[], []]);
  });

  it("fails when the earlier protocol fails after the last one, and lists all in the order of failure", async () => {
    const running = race({ candidates: ["quic", "tcp"] });
    await running.clock.advance(250);
    await running.attempts[1]?.fail(failure("Unavailable", "no TCP"));
    await running.attempts[0]?.fail(failure("ConnectionRefused", "no QUIC"));
    const { message, cause, addr } = await assertRejects(running.result, "ConnectionRefused");
    assert.equal(
      message,
      "no protocol works with peer:1: tcp: Unavailable, no TCP; quic: ConnectionRefused, no QUIC",
    );
    assert.deepEqual(
      (cause as AggregateError).errors.map(({ code }) => code),
      ["Unavailable", "ConnectionRefused"],
    );
    assert.equal(addr, "peer:1");
  });

  it("fails with the only error of a peer with one protocol, else with the first if none is more informative", async () => {
    const only = race({ candidates: ["tcp"] });
    const error = failure("ConnectionRefused");
    await only.attempts[0]?.fail(error);
    assert.equal(await rejectionOf(only.result), error);
    const telling = race({ candidates: ["quic", "tcp"] });
    await telling.attempts[0]?.fail(failure("ProtocolNotSupported"));
    await telling.attempts[1]?.fail(failure("Unreachable"));
    await assertRejects(telling.result, "Unreachable");
    const neither = race({ candidates: ["quic", "tcp"] });
    await neither.attempts[0]?.fail(failure("ProtocolNotSupported"));
    await neither.attempts[1]?.fail(failure("Unavailable"));
    await assertRejects(neither.result, "ProtocolNotSupported");
  });

  for (const code of [
    "InvalidPacket",
    "InvalidLength",
    "InvalidUtf8",
    "ProtocolViolation",
    "TruncatedContent",
  ] as const) {
    it(`garbage over one protocol (${code}) leads to the next`, async () => {
      const running = race();
      await running.attempts[0]?.fail(failure(code));
      assert.deepEqual(started(running), ["quic", "tcp"]);
      await running.attempts[1]?.succeed("piece");
      assert.equal((await running.result).protocol, "tcp");
    });
  }

  it("a rejected certificate leads to the next protocol, unless the caller sets trust options", async () => {
    const refused = failure("HandshakeFailed", "no authority");
    const unnamed = race({ trust: "unnamed" });
    await unnamed.attempts[0]?.fail(refused);
    await unnamed.attempts[1]?.succeed("piece");
    const { protocol, reason } = await unnamed.result;
    assert.deepEqual([protocol, reason], ["tcp", "quic: HandshakeFailed, no authority"]);
    const named = race({ trust: "named" });
    await named.attempts[0]?.fail(refused);
    const { answer } = await named.result;
    assert.deepEqual([answer, named.attempts.length], [{ error: refused }, 1]);
  });

  it("an error from the peer wins; the other attempts are aborted, and their results discarded", async () => {
    const running = race();
    await running.clock.advance(500);
    const answer = failure("NotFound");
    await running.attempts[1]?.fail(answer);
    assert.deepEqual(await running.result, {
      protocol: "tcp",
      reason: "quic had not answered within 250 ms",
      answer: { error: answer },
    });
    const [quic, tcp, grpc] = running.attempts;
    assert.equal(tcp?.signal.aborted, false);
    for (const loser of [quic, grpc]) {
      const reason: unknown = loser?.signal.reason;
      assert.ok(reason instanceof VortexError);
      assert.deepEqual(
        [reason.code, reason.message, reason.addr],
        ["Aborted", "tcp answered first", "peer:1"],
      );
    }
    await quic?.succeed("late");
    await grpc?.fail(failure("Aborted"));
    assert.deepEqual([running.discarded, running.lost], [["late"], ["quic", "grpc"]]);
  });

  it("starts no attempt after its end, and leaves no timer", async () => {
    const ends: ((running: ProtocolRace, controller: AbortController) => void)[] = [
      (running) => void running.attempts[0]?.succeed("piece"),
      (running) => void running.attempts[0]?.fail(failure("NotFound")),
      (_running, controller) => controller.abort(),
    ];
    for (const end of ends) {
      const controller = new AbortController();
      const running = race({ signal: controller.signal });
      await running.clock.advance(250);
      end(running, controller);
      await settle();
      assert.equal(running.clock.pending, 0);
      // The failure of a loser must not start the next attempt.
      for (const { fail } of running.attempts) await fail(failure("ConnectionRefused"));
      await running.clock.advance(1000);
      assert.deepEqual(started(running), ["quic", "tcp"]);
    }
  });

  it("leaves no listener on the signal, whatever the outcome", async () => {
    const ends: ((running: ProtocolRace) => Promise<unknown> | undefined)[] = [
      (running) => running.attempts[0]?.succeed("piece"),
      (running) => running.attempts[0]?.fail(failure("NotFound")),
      async (running) => {
        for (let at = 0; at < 3; at++)
          await running.attempts[at]?.fail(failure("ConnectionRefused"));
      },
    ];
    for (const end of ends) {
      const { controller, listeners } = countedSignal();
      const running = race({ signal: controller.signal });
      assert.equal(listeners(), 1);
      await end(running);
      await running.result.catch(() => {});
      assert.equal(listeners(), 0);
    }
  });

  it("an aborted signal ends the race and all attempts with the same reason", async () => {
    for (const reason of [failure("PieceTimeout"), new Error("enough")]) {
      const controller = new AbortController();
      const running = race({ signal: controller.signal });
      await running.clock.advance(250);
      controller.abort(reason);
      const error = await rejectionOf(running.result);
      if (reason instanceof VortexError) assert.equal(error, reason);
      else assert.deepEqual([error.code, error.cause, error.addr], ["Aborted", reason, "peer:1"]);
      for (const { signal } of running.attempts) assert.equal(signal.reason, error);
    }
    const before = race({ signal: AbortSignal.abort() });
    await assertRejects(before.result, "Aborted");
    assert.deepEqual(before.attempts, []);
  });

  it("treats an exception as Internal, and tries no other protocol", async () => {
    const running = race({
      run() {
        throw new TypeError("oops");
      },
    });
    const { answer } = await running.result;
    assert.ok("error" in answer);
    assert.deepEqual([answer.error.code, answer.error.message], ["Internal", "oops"]);
    assert.equal(running.clock.pending, 0);
  });

  it("treats exactly these errors as no answer from the peer", () => {
    const elsewhere: readonly ErrorCode[] = [
      ...(["Unavailable", "PermissionDenied", "RemoteUnimplemented"] as const),
      ...([
        "InvalidPacket",
        "InvalidLength",
        "InvalidUtf8",
        "ProtocolViolation",
        "TruncatedContent",
      ] as const),
      ...([
        "ConnectionRefused",
        "Unreachable",
        "ProtocolNotSupported",
        "ConnectionLost",
        "StreamReset",
      ] as const),
      ...([
        "EarlyDataRefused",
        "AddressInUse",
        "ConnectTimeout",
        "PieceTimeout",
        "Stalled",
      ] as const),
    ];
    for (const code of errorCodes) {
      assert.equal(isAnswer(failure(code), "named"), !elsewhere.includes(code), code);
      const other = code === "HandshakeFailed" || elsewhere.includes(code);
      assert.equal(isAnswer(failure(code), "unnamed"), !other, code);
    }
  });
});

interface Dialling {
  readonly clock: FakeClock;
  readonly attempts: (Attempt<string, string> & { readonly only: boolean })[];
  readonly discarded: string[];
  readonly result: Promise<string>;
}

function dialling(addresses: readonly string[], signal?: AbortSignal): Dialling {
  const clock = new FakeClock();
  const attempts: Dialling["attempts"] = [];
  const discarded: string[] = [];
  const dial: AddressDial<string>["dial"] = (candidate, own, only) =>
    new Promise((resolve, reject) => {
      attempts.push({
        candidate,
        signal: own ?? new AbortController().signal,
        reason: "",
        only,
        succeed: (value) => {
          resolve(value);
          return settle();
        },
        fail: (error) => {
          reject(error);
          return settle();
        },
      });
    });
  const remote = { host: "peer.example", port: 4006 };
  const discard = (late: string): void => void discarded.push(late);
  const result = dialAddresses<string>({ remote, addresses, clock, signal, dial, discard });
  result.catch(() => {});
  return { clock, attempts, discarded, result };
}

const tried = ({ attempts }: Dialling): string[] => attempts.map(({ candidate }) => candidate);

describe("dialAddresses", () => {
  it("alternates families, starting with that of the first address, without duplicates", () => {
    for (const [addresses, ordered] of [
      [["1.1.1.1"], ["1.1.1.1"]],
      [
        ["::1", "::2", "::3", "1.1.1.1"],
        ["::1", "1.1.1.1", "::2", "::3"],
      ],
      [
        ["1.1.1.1", "::1", "::2"],
        ["1.1.1.1", "::1", "::2"],
      ],
      [
        ["1.1.1.1", "1.1.1.2", "1.1.1.1", "::1", "::1", "1.1.1.3"],
        ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"],
      ],
      [[], []],
    ] as const) {
      assert.deepEqual(interleaveFamilies(addresses), ordered);
    }
  });

  it("dials the next address after 250 ms; the first connection wins, and a late one is discarded", async () => {
    const running = dialling(["::1", "1.1.1.1", "::2"]);
    await settle();
    assert.deepEqual(tried(running), ["::1"]);
    assert.equal(ATTEMPT_DELAY_MS, 250);
    await running.clock.advance(249);
    assert.deepEqual(tried(running), ["::1"]);
    await running.clock.advance(1);
    assert.deepEqual(tried(running), ["::1", "1.1.1.1"]);
    await running.attempts[1]?.succeed("second");
    assert.equal(await running.result, "second");
    const reason = running.attempts[0]?.signal.reason as VortexError;
    assert.deepEqual([reason.code, reason.message], ["Aborted", "1.1.1.1 answered first"]);
    await running.attempts[0]?.succeed("first");
    assert.deepEqual(running.discarded, ["first"]);
    assert.deepEqual([running.clock.pending, running.attempts.length], [0, 2]);
    assert.equal(
      running.attempts.some(({ only }) => only),
      false,
    );
  });

  it("dials the next address at once when one fails", async () => {
    const running = dialling(["::1", "1.1.1.1"]);
    await settle();
    await running.attempts[0]?.fail(failure("Unreachable"));
    assert.deepEqual(tried(running), ["::1", "1.1.1.1"]);
    assert.equal(running.clock.pending, 0);
    await running.attempts[1]?.succeed("second");
    assert.equal(await running.result, "second");
  });

  it("dials a single address with the caller's signal, and passes its error on", async () => {
    const { signal } = new AbortController();
    const running = dialling(["1.1.1.1", "1.1.1.1"], signal);
    await settle();
    const [attempt] = running.attempts;
    assert.deepEqual([attempt?.only, attempt?.signal], [true, signal]);
    const error = failure("ConnectionRefused");
    await attempt?.fail(error);
    assert.equal(await rejectionOf(running.result), error);
    assert.equal(running.clock.pending, 0);
  });

  it("when all fail, the message lists each failure, and the code is the most informative", async () => {
    for (const [codes, expected] of [
      [["Unreachable", "ConnectionRefused"], "ConnectionRefused"],
      [["ConnectionRefused", "ProtocolNotSupported"], "ProtocolNotSupported"],
      [["ConnectTimeout", "ProtocolNotSupported"], "ProtocolNotSupported"],
      [["Unreachable", "ConnectTimeout"], "ConnectTimeout"],
      [["StreamReset", "Unreachable"], "StreamReset"],
    ] as const) {
      const running = dialling(["::1", "1.1.1.1"]);
      await settle();
      const errors = codes.map((code) => failure(code, `no ${code}`));
      // Slow attempts have not failed yet.
      await running.clock.advance(ATTEMPT_DELAY_MS);
      for (const [at, error] of errors.entries()) await running.attempts[at]?.fail(error);
      const { message, cause, addr } = await assertRejects(running.result, expected);
      const each = `::1: ${codes[0]}, no ${codes[0]}; 1.1.1.1: ${codes[1]}, no ${codes[1]}`;
      assert.equal(message, `cannot connect to any of 2 addresses of peer.example:4006: ${each}`);
      assert.ok(cause instanceof AggregateError);
      assert.deepEqual([cause.errors, cause.message, addr], [errors, message, "peer.example:4006"]);
    }
  });

  it("an error outside of the network ends all attempts, and so does a failed handshake", async () => {
    for (const code of ["InvalidArgument", "Unavailable", "Internal", "HandshakeFailed"] as const) {
      const running = dialling(["::1", "1.1.1.1", "::2"]);
      await running.clock.advance(ATTEMPT_DELAY_MS);
      const error = failure(code);
      await running.attempts[1]?.fail(error);
      assert.equal(await rejectionOf(running.result), error);
      assert.equal(running.attempts[0]?.signal.aborted, true);
      assert.deepEqual([running.attempts.length, running.clock.pending], [2, 0]);
    }
  });

  it("the signal ends all attempts, and has no listener left", async () => {
    const own = failure("ConnectTimeout");
    for (const reason of [own, new Error("enough")]) {
      const { controller, listeners } = countedSignal();
      const running = dialling(["::1", "1.1.1.1", "::2"], controller.signal);
      await running.clock.advance(ATTEMPT_DELAY_MS);
      controller.abort(reason);
      const error = await rejectionOf(running.result);
      if (reason === own) assert.equal(error, own);
      else
        assert.deepEqual(
          [error.code, error.message, error.cause],
          ["Aborted", "dialling peer.example:4006 was aborted", reason],
        );
      for (const { signal } of running.attempts) assert.equal(signal.reason, error);
      await running.attempts[0]?.succeed("late");
      await running.clock.advance(1000);
      assert.deepEqual(
        [running.attempts.length, running.clock.pending, running.discarded],
        [2, 0, ["late"]],
      );
      // An aborted signal has dropped its listener.
      assert.ok(listeners() <= 1);
    }
    const { controller, listeners } = countedSignal();
    const running = dialling(["::1", "1.1.1.1"], controller.signal);
    await settle();
    await running.attempts[0]?.succeed("first");
    assert.equal(await running.result, "first");
    assert.equal(listeners(), 0);
  });

  it("dials no address if the signal is aborted already, or the host has none", async () => {
    for (const addresses of [["1.1.1.1"], ["1.1.1.1", "::1"]]) {
      const running = dialling(addresses, AbortSignal.abort());
      await assertRejects(running.result, "Aborted");
      assert.deepEqual(running.attempts, []);
    }
    const { message, addr } = await assertRejects(dialling([]).result, "Unreachable");
    assert.deepEqual(
      [message, addr],
      ["cannot dial peer.example:4006: host name has no address", "peer.example:4006"],
    );
  });

  it("dials at most 16 addresses", async () => {
    const running = dialling(Array.from({ length: 100 }, (_, at) => `10.0.0.${at}`));
    await settle();
    for (let at = 0; at < MAX_ADDRESSES; at++)
      await running.attempts[at]?.fail(failure("Unreachable"));
    await assertRejects(running.result, "Unreachable");
    assert.equal(running.attempts.length, 16);
  });
});
