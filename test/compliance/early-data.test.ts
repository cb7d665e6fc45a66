import { fixtures } from "../support/fixtures.ts";
import { earlyDataCompliance } from "./early-data.ts";

for (const [name, fixture] of Object.entries(fixtures)) {
  if (fixture.overUdp) earlyDataCompliance(name, fixture);
}
