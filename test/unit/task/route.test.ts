/** Routes: failures and their pauses, misses, announcements, and the measured pace. */
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

/** Fails a route so many times in a row, a second apart, and returns when the last one was. */
function fail(route: RouteState, times: number, from = 0): number {
  let now = from;
  for (let failure = 0; failure < times; failure++) {
    now += 1000;
    route.failed(lost, route.failureEpoch, now, whole);
  }
  return now;
}

describe("the name of a route", () => {
  it("is its parent, with the protocol where there are several", () => {
    assert.equal(routeOf().id, "a:1");
    const over = new RouteState({ parent: "a:1", protocol: "quic" }, false);
    assert.deepEqual([over.id, over.parent, over.protocol], ["a:1 over quic", "a:1", "quic"]);
  });
});

describe("the pause after failures", () => {
  it("is 250 ms, doubles up to 30 s, and half of it is by chance", () => {
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
  it("hold it back for a pause, with one request at a time afterwards, and a success ends that", () => {
    const route = routeOf();
    assert.deepEqual([route.isRecovering, route.availability(0)], [false, { from: 0 }]);
    route.failed(lost, route.failureEpoch, 10, whole);
    assert.deepEqual(
      [route.isRecovering, route.isLeftOut, route.failures, route.lastFailureAt],
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

  it("of attempts that had begun before the last one count once", () => {
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

  it("leave it out after five in a row; it is offered on in its pauses, and comes back with a success", () => {
    const route = routeOf();
    fail(route, MAX_FAILURES - 1);
    assert.equal(route.leftOut, undefined);
    const now = fail(route, 1, 4000);
    assert.deepEqual([route.leftOut, route.isLeftOut], ["gone", true]);
    assert.deepEqual(route.availability(3), { from: now + 4000 });
    route.failed(lost, route.failureEpoch, now + 4001, whole);
    assert.deepEqual(route.availability(3), { from: now + 12_001 });
    route.retryBy(now + 5000);
    assert.deepEqual(route.availability(3), { from: now + 5000 });
    route.retryBy(now + 9000);
    assert.deepEqual(route.availability(3), { from: now + 5000 });
    route.succeeded(now + 6000);
    assert.deepEqual(
      [route.leftOut, route.isLeftOut, route.failures, route.availability(3)],
      [undefined, false, 0, { from: 0 }],
    );
  });

  it("a useless route is asked after 30 s, and a banned one never, whatever happens", () => {
    const route = routeOf();
    route.leaveOut("useless", 100);
    assert.deepEqual(
      [route.leftOut, route.isRecovering, route.lastFailureAt],
      ["useless", true, 100],
    );
    assert.deepEqual(route.availability(0), { from: 30_100 });
    route.restore();
    assert.deepEqual(
      [route.leftOut, route.isRecovering, route.availability(0)],
      [undefined, false, { from: 0 }],
    );
    route.leaveOut("banned", 200);
    assert.equal(route.availability(0), undefined);
    route.leaveOut("useless", 300);
    route.restore();
    route.succeeded(400);
    route.failed(lost, route.failureEpoch, 600, whole);
    route.retryBy(0);
    assert.deepEqual(
      [route.leftOut, route.lastFailureAt, route.availability(0)],
      ["banned", 200, undefined],
    );
    assert.equal(route.errors, 1, "what went wrong is noted all the same");
  });
});

describe("misses of a piece", () => {
  it("have it asked again after pauses that double, and after three never, while other pieces are", () => {
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

  it("and a pause of the route hold the piece back for the longer of both", () => {
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

  it("of a route that never delivered anything are failures, and leave it out as useless", () => {
    const route = routeOf();
    for (let number = 0; number < 5; number++) {
      assert.equal(route.isLeftOut, false);
      route.missed(number, missing, route.failureEpoch, number * 1000 + 1, whole);
    }
    assert.deepEqual([route.leftOut, route.failures], ["useless", 5]);
  });
});

describe("announcements of a route", () => {
  it("without any, all pieces are offered and none is waited for", () => {
    const route = routeOf();
    assert.deepEqual(
      [route.mayAnnounceMore, route.awaitsReannouncement, route.availability(3)],
      [false, false, { from: 0 }],
    );
    route.announce(4);
    assert.deepEqual(route.availability(3), { from: 0 });
  });

  it("only announced pieces are offered; others are waited for until the end", () => {
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

  it("that end as if there had been none offer everything", () => {
    const route = routeOf(true);
    route.endAnnouncements(true);
    assert.deepEqual([route.mayAnnounceMore, route.availability(4)], [false, { from: 0 }]);
  });

  it("that broke off are not waited for like others, until the next one comes", () => {
    const route = routeOf(true);
    route.interruptAnnouncements();
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [false, true]);
    route.announce(3);
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [true, false]);
    route.interruptAnnouncements();
    route.endAnnouncements(true);
    assert.deepEqual([route.mayAnnounceMore, route.awaitsReannouncement], [false, false]);
  });

  it("of a route that is left out are not waited for, and broken ones only unless it is banned", () => {
    const route = routeOf(true);
    route.leaveOut("useless", 0);
    assert.equal(route.mayAnnounceMore, false);
    route.interruptAnnouncements();
    assert.equal(route.awaitsReannouncement, true);
    route.leaveOut("banned", 0);
    assert.equal(route.awaitsReannouncement, false);
  });
});

describe("the pace of a route", () => {
  it("is undefined before a piece, and nothing is expected then", () => {
    const route = routeOf();
    assert.deepEqual([route.rate, route.expectedMs(1_000_000, 0)], [undefined, 0]);
  });

  it("is measured in samples of 250 ms of owed time, the newest with a weight of 0.3", () => {
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

  it("a piece that came faster than a sample is the first sample, and later ones are not", () => {
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

  it("a success without owed time is no sample", () => {
    const route = routeOf();
    route.begin(5);
    route.arrived(1000, 5);
    route.succeeded(5);
    assert.equal(route.rate, undefined);
  });

  it("the first sample begins anew after it", () => {
    const route = routeOf();
    route.begin(0);
    route.arrived(1000, 100);
    route.succeeded(200);
    assert.equal(route.rate, 10);
    route.arrived(2500, 450);
    assert.equal(route.rate, 10, "250 ms since the success");
  });

  it("counts time only while bytes are owed, once for all attempts", () => {
    const route = routeOf();
    route.begin(0);
    route.begin(0);
    route.setWaiting(false, 100);
    route.arrived(500, 150);
    route.setWaiting(false, 150);
    // A rate limit of ours holds both back.
    route.setWaiting(true, 10_150);
    route.arrived(2000, 10_250);
    assert.equal(route.rate, 10);
  });

  it("an end with nothing is a rate too, of a thousandth of a byte a millisecond at least", () => {
    const route = routeOf();
    route.begin(0);
    route.end(true, 250);
    assert.equal(route.rate, 0.001);
    const other = routeOf();
    other.begin(0);
    other.end(true, 249);
    assert.equal(other.rate, undefined);
  });

  it("an attempt that ends while nothing is owed adds no time", () => {
    const route = routeOf();
    route.begin(0);
    route.setWaiting(false, 100);
    route.end(false, 10_000);
    route.begin(10_000);
    route.arrived(2500, 10_150);
    assert.equal(route.rate, 10);
  });

  it("expects what is under way before a further piece, and the latency", () => {
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

  it("fades after 10 s without an attempt, so that a slow parent is tried again; not while one is under way", () => {
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
    // Idle since the last one ended.
    assert.equal(route.expectedMs(1000, 70_000), 100);
    assert.equal(route.expectedMs(1000, 80_000), 50);
  });

  it("idle time begins with the first attempt after a pause", () => {
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

  it("of several routes are told once each, the newest eight", () => {
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
