import { tcpFixture } from "../support/fixtures.ts";
import { transportCompliance } from "./suite.ts";

transportCompliance("tcp", tcpFixture);
