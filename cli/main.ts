#!/usr/bin/env node
import { loadSdk } from "./load-sdk.ts";
import { runProcess } from "./process.ts";

await runProcess(loadSdk);
