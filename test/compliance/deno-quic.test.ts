import { denoQuicFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

if (denoQuicFixture !== undefined) transportCompliance("deno-quic", denoQuicFixture);
