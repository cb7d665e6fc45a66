import { nodeQuicFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

if (nodeQuicFixture !== undefined) transportCompliance("node-quic", nodeQuicFixture);
