import { memoryFixture } from "../support/fixture.ts";
import { transportCompliance } from "./suite.ts";

transportCompliance("memory", memoryFixture);
