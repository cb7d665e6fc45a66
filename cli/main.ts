#!/usr/bin/env node
import { runProcess } from "./process.ts";
import { runtimeFace } from "./runtime-face.ts";

await runProcess(runtimeFace);
