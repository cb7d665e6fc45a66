/** Routes: failures and pauses, missing pieces, announcements, and the measured rate. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../../src/errors.ts";
import { backoffMs, MAX_FAILURES, RouteState, reasonsOf } from "../../../src/task/route.ts";

const whole = (): number => 1;
const lost = new VortexError("ConnectionLost", "lost");
const missing = new VortexError("NotFound", "not here");

function routeOf(announces = false): RouteState {
  return new RouteState({ parent: "a:1" }, announces);
}

/**
 * Fails a route a number of times in a row, a second apart. Returns the time of the last failure.
 */
function fail(route: RouteState, times: number, from = 0): number {
  let now = from;
  for (let failure = 0; failure < times; failure++) {
    now += 1000;
    route.failed(lost, route.failureEpoch, now, whole);
  }
  return now;
}

describe("the ID of a route", () => {
  it("is the name of its parent, with the protocol if there are several", () => {
    assert.equal(routeOf().id, "a:1");
    const over = new RouteState({ parent: "a:1", protocol: "quic" }, false);
    assert.deepEqual([over.id, over.parent, over.protocol], ["a:1 over quic", "a:1", "quic"]);
  });
});

describe("the pause after failures", () => {
  it("is 250 ms, doubles up to 30 s, and has equal jitter", () => {
    const pauses = [1, 2, 3, 4, 5, 6, 7, 8, 9, 100].map((failures) => backoffMs(failures, whole));
    assert.deepEqual(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    assert.equal(
      backoffMs(1, () => 0),
      125,
    );
    assert.equal(
      backoffMs(9, () => 0.5),
      22_500,
    );
  });
});

describe("failures of a route", () => {
  it("pause it, then limit it to one request at a time until a success", () => {
    const route = routeOf();
    assert.deepEqual([route.isRecovering, route.availability(0)], [false, { from: 0 }]);
    route.failed(lost, route.failureEpoch, 10, whole);
    assert.deepEqual(
      [route.isRecovering, route.isExcluded, route.failures, route.lastFailureAt],
      [true, false, 1, 10],
    );
    assert.deepEqual(route.availability(0), { from: 260 });
    route.failed(lost, route.failureEpoch, 400, whole);
    assert.deepEqual(route.availability(0), { from: 900 });
    route.succeeded(1000);
    assert.deepEqual(
      [route.isRecovering, route.failures, route.availability(0)],
      [false, 0, { from: 0 }],
    );
    assert.deepEqual([route.pieces, route.errors], [1, 2]);
  });

  it("count once for attempts that were in flight together", () => {
    const route = routeOf();
    const { failureEpoch } = route;
    route.failed(lost, failureEpoch, 10, whole);
    route.failed(lost, failureEpoch, 11, whole);
    route.failed(lost, failureEpoch, 12, whole);
    assert.deepEqual([route.failures, route.errors, route.lastFailureAt], [1, 3, 10]);
    route.failed(lost, route.failureEpoch, 13, whole);
    assert.deepEqual([route.failures, route.lastFailureAt], [2, 13]);
  });

  it("count one by one within one millisecond, also after a success", () => {
    const route = routeOf();
    route.failed(lost, route.failureEpoch, 10, whole);
    route.failed(lost, route.failureEpoch, 10, whole);
    assert.deepEqual([route.failures, route.availability(0)], [2, { from: 510 }]);
    route.succeeded(10);
    route.failed(lost, route.failureEpoch, 10, whole);
    assert.deepEqual([route.failures, route.availability(0)], [1, { from: 260 }]);
  });

  it("exclude it after five in a row, with probes after each pause, until a success", () => {
    const route = routeOf();
    fail(route, MAX_FAILURES - 1);
    assert.equal(route.exclusion, undefined);
    const now = fail(route, 1, 4000);
    assert.deepEqual([route.exclusion, route.isExcluded], ["gone", true]);
    assert.deepEqual(route.availability(3), { from: now + 4000 });
    route.failed(lost, route.failureEpoch, now + 4001, whole);
    assert.deepEqual(route.availability(3), { from: now + 12_001 });
    route.retryBy(now + 5000);
    assert.deepEqual(route.availability(3), { from: now + 5000 });
    route.retryBy(now + 9000);
    assert.deepEqual(route.availability(3), { from: now + 5000 });
    route.succeeded(now + 6000);
    assert.deepEqual(
      [route.exclusion, route.isExcluded, route.failures, route.availability(3)],
      [undefined, false, 0, { from: 0 }],
    );
  });

  it("allow probes of a useless route after 30 s, and never of a banned one", () => {
    const route = routeOf();
    route.exclude("useless", 100);
    assert.deepEqual(
      [route.exclusion, route.isRecovering, route.lastFailureAt],
      ["useless", true, 100],
    );
    assert.deepEqual(route.availability(0), { from: 30_100 });
    route.restore();
    assert.deepEqual(
      [route.exclusion, route.isRecovering, route.availability(0)],
      [undefined, false, { from: 0 }],
    );
    route.exclude("banned", 200);
    assert.equal(route.availability(0), undefined);
    route.exclude("useless", 300);
    route.restore();
    route.succeeded(400);
    route.failed(lost, route.failureEpoch, 600, whole);
    route.retryBy(0);
    assert.deepEqual(
      [route.exclusion, route.lastFailureAt, route.availability(0)],
      ["banned", 200, undefined],
    );
    assert.equal(route.errors, 1, "what went wrong is noted all the same");
  });
});

describe("pieces that a parent lacks", () => {
  it("are requested again after doubling pauses, three times in all, while other pieces are unaffected", () => {
    const route = routeOf();
    route.succeeded(0);
    route.missed(7, missing, route.failureEpoch, 1000, whole);
    assert.deepEqual([route.availability(7), route.availability(8)], [{ from: 1250 }, { from: 0 }]);
    route.missed(7, missing, route.failureEpoch, 2000, whole);
    assert.deepEqual(route.availability(7), { from: 2500 });
    route.missed(7, missing, route.failureEpoch, 3000, whole);
    assert.deepEqual([route.availability(7), route.availability(8)], [undefined, { from: 0 }]);
    assert.deepEqual([route.failures, route.errors], [0, 3]);
    route.announce(7);
    assert.deepEqual(route.availability(7), { from: 0 });
  });

  it("wait for their pause or that of the route, whichever is longer", () => {
    const route = routeOf();
    route.succeeded(0);
    route.missed(7, missing, route.failureEpoch, 1000, whole);
    route.failed(lost, route.failureEpoch, 900, whole);
    assert.deepEqual(
      [route.availability(7), route.availability(8)],
      [{ from: 1250 }, { from: 1150 }],
    );
    route.failed(lost, route.failureEpoch, 1100, whole);
    assert.deepEqual(route.availability(7), { from: 1600 });
  });

  it("count as failures of a route that never delivered, and exclude it as useless", () => {
    const route = routeOf();
    for (let number = 0; number < 5; number++) {
      assert.equal(route.isExcluded, false);
      route.missed(number, missing, route.failureEpoch, number * 1000 + 1, whole);
    }
    assert.deepEqual([route.exclusion, route.failures], ["useless", 5]);
  });
});

describe("announcements of a route", () => {
  it("are not awaited from a route that is assumed to have all pieces", () => {
    const route = routeOf();
    assert.deepEqual(
      [route.mayAnnounceMore, route.awaitsReannouncement, route.availability(3)],
      [false, false, { from: 0 }],
    );
    route.announce(4);
    assert.deepEqual(route.availability(3), { from: 0 });
  });

  it("make only announced pieces available, and others are awaited until the end", () => {
    const route = routeOf(true);
    assert.deepEqual([route.mayAnnounceMore, route.availability(3)], [true, undefined]);
    route.announce(3);
    assert.deepEqual([route.availability(3), route.availability(4)], [{ from: 0 }, undefined]);
    route.endAnnouncements(false);
    assert.deepEqual(
      [route.mayAnnounceMore, route.availability(3), route.availability(4)],
      [false, { from: 0 }, undefined],
    );
  });

  it("that end with `everything` make all pieces available", () => {
    const route = routeOf(true);
    route.endAnnouncements(true);
    assert.deepEqual([route.mayAnnounceMore, route.availability(4)], [false, { from: 0 }]);
  });

  it("that are interrupted are awaited differently, until the next one", () => {
    const route = routeOf(true);
    route.interruptAnnouncements();
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [false, true]);
    route.announce(3);
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [true, false]);
    route.interruptAnnouncements();
    route.endAnnouncements(true);
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [false, false]);
  });

  it("are not awaited from a excluded route, and interrupted ones only unless it is banned", () => {
    const route = routeOf(true);
    route.exclude("useless", 0);
    assert.equal(route.mayAnnounceMore, false);
    route.interruptAnnouncements();
    assert.equal(route.awaitsReannouncement, true);
    route.exclude("banned", 0);
    assert.equal(route.awaitsReannouncement, false);
  });
});

describe("the rate of a route", () => {
  it("is undefined before the first piece, and the expected time is 0 then", () => {
    const route = routeOf();
    assert.deepEqual([route.rate, route.expectedMs(1_000_000, 0)], [undefined, 0]);
  });

  it("is averaged over samples of 250 ms of wait time, with a weight of 0.3 for the newest", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(1000, 249);
    assert.equal(route.rate, undefined);
    route.arrived(1500, 250);
    assert.equal(route.rate, 10);
    route.arrived(0, 499);
    assert.equal(route.rate, 10);
    route.arrived(5000, 500);
    assert.equal(route.rate, 10 + 0.3 * (20 - 10));
    assert.equal(route.bytes, 7500);
  });

  it("takes a piece faster than a sample as the first sample only", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(1000, 100);
    route.succeeded(100);
    assert.equal(route.rate, 10);
    route.end(true, 100);
    route.begin(100);
    route.arrived(10_000, 200);
    route.succeeded(200);
    assert.equal(route.rate, 10);
    // Its bytes count with the next sample.
    route.arrived(0, 350);
    assert.equal(route.rate, 10 + 0.3 * (40 - 10));
  });

  it("ignores a success without wait time", () => {
    const route = routeOf();
    route.begin(5);
    route.arrived(1000, 5);
    route.succeeded(5);
    assert.equal(route.rate, undefined);
  });

  it("starts the next sample after that first one", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(1000, 100);
    route.succeeded(200);
    assert.equal(route.rate, 10);
    route.arrived(2500, 450);
    assert.equal(route.rate, 10, "250 ms since the success");
  });

  it("counts wait time once for all attempts", () => {
    const route = routeOf();
    route.begin(0);
    route.begin(0);
    route.setWaiting(false, 100);
    route.arrived(500, 150);
    route.setWaiting(false, 150);
    // A local rate limit delays both attempts.
    route.setWaiting(true, 10_150);
    route.arrived(2000, 10_250);
    assert.equal(route.rate, 10);
  });

  it("counts an end without bytes, as at least a thousandth of a byte per millisecond", () => {
    const route = routeOf();
    route.begin(0);
    route.end(true, 250);
    assert.equal(route.rate, 0.001);
    const other = routeOf();
    other.begin(0);
    other.end(true, 249);
    assert.equal(other.rate, undefined);
  });

  it("adds no time for an attempt that ends while it does not wait", () => {
    const route = routeOf();
    route.begin(0);
    route.setWaiting(false, 100);
    route.end(false, 10_000);
    route.begin(10_000);
    route.arrived(2500, 10_150);
    assert.equal(route.rate, 10);
  });

  it("expects the pieces in flight before a further one, plus the latency", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(2500, 250);
    assert.equal(route.expectedMs(1000, 250), 200);
    route.answered(40);
    assert.equal(route.expectedMs(1000, 250), 240);
    route.answered(140);
    assert.equal(route.latency, 70);
    route.begin(250);
    assert.equal(route.expectedMs(1000, 250), 370);
    assert.equal(route.inFlight, 2);
    route.end(true, 250);
    route.end(true, 250);
    assert.deepEqual([route.inFlight, route.expectedMs(1000, 250)], [0, 170]);
  });

  it("is assumed to grow after 10 s without an attempt, so that a slow parent is tried again", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(2500, 250);
    route.end(true, 250);
    assert.equal(route.expectedMs(1000, 10_250), 100);
    assert.equal(route.expectedMs(1000, 20_250), 50);
    assert.equal(route.expectedMs(1000, 40_250), 25);
    route.begin(40_250);
    assert.equal(route.expectedMs(1000, 80_000), 200);
    route.begin(40_260);
    route.end(false, 50_000);
    assert.equal(route.expectedMs(1000, 80_000), 200, "one is under way still");
    route.end(false, 60_000);
    // The route is idle since the last attempt ended.
    assert.equal(route.expectedMs(1000, 70_000), 100);
    assert.equal(route.expectedMs(1000, 80_000), 50);
  });

  it("counts idle time from the end of the last attempt", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(2500, 250);
    route.end(true, 250);
    route.begin(30_000);
    route.end(false, 30_000);
    assert.equal(route.expectedMs(1000, 40_000), 100);
  });
});

describe("reasons", () => {
  const named = (number: number): VortexError =>
    new VortexError("ConnectionLost", `lost ${number}`);

  it("are kept once each, the newest eight", () => {
    const route = routeOf();
    for (let number = 0; number < 10; number++) route.addReason(named(number));
    for (let number = 0; number < 10; number++) if (number >= 2) route.addReason(named(number));
    route.addReason(new VortexError("StreamReset", "lost 9"));
    assert.equal(route.errors, 19);
    assert.deepEqual(
      route.reasons.map(({ code, message }) => `${code} ${message}`),
      [
        ...[3, 4, 5, 6, 7, 8, 9].map((number) => `ConnectionLost lost ${number}`),
        "StreamReset lost 9",
      ],
    );
  });

  it("are merged over several routes, the newest eight", () => {
    const routes = [routeOf(), routeOf()];
    for (const [index, route] of routes.entries()) {
      for (let number = 0; number < 6; number++) route.addReason(named(number + 3 * index));
    }
    routes[1]?.addReason(new VortexError("StreamReset", "lost 8"));
    assert.deepEqual(
      reasonsOf(routes).map(({ code, message }) => `${code} ${message}`),
      [
        ...[2, 3, 4, 5, 6, 7, 8].map((number) => `ConnectionLost lost ${number}`),
        "StreamReset lost 8",
      ],
    );
  });
});
