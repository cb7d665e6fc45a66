import { quicheFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

if (quicheFixture !== undefined) transportCompliance("quiche", quicheFixture);
