import {
  type Checks,
  implementing,
  invalid,
  required,
  requireKnownFields,
} from "../src/arguments.ts";
import type { PieceKind } from "../src/piece.ts";
import type { Operation, OperationResult, OperationStart, Telemetry } from "../src/telemetry.ts";

/**
 * Creates an observer that reports operations as OpenTelemetry spans and metrics. Spans are named
 * as in dragonfly-client 1.5.1, and metrics as in its crate `dragonfly-client-metric`. Pass the
 * module that the program has set up:
 *
 *     import * as api from "@opentelemetry/api";
 *     createDownloader({ protocol: "quic", telemetry: openTelemetry(api) });
 *
 * The names of all metrics start with `dragonfly_client_`. Their attributes are in parentheses:
 *
 * - `download_task_total`, `download_task_failure_total` (`type`): number of task downloads.
 * - `concurrent_download_task_total` (`type`): number of task downloads in progress.
 * - `download_task_duration_milliseconds` (`task_type`, `task_size_level`): time of complete tasks.
 * - `download_traffic` (`type`: `REMOTE_PEER`): bytes of fetched pieces.
 * - `download_piece_total`, `download_piece_failure_total` (`error_type`): requested pieces (*).
 * - `concurrent_upload_piece_total`: number of pieces being sent.
 * - `upload_traffic`: bytes of content sent.
 * - `upload_piece_total`, `upload_piece_failure_total` (`error_type`): requests from peers (*).
 * - `stat_task_total`, `stat_task_failure_total` (`type`): responses to StatTask.
 * - `stat_local_task_total`, `stat_local_task_failure_total` (`type`): responses to StatLocalTask.
 *
 * For the metrics marked (*), the attribute `error_type` exists on the failure metric only. Stock
 * Dragonfly has no equivalent of them.
 *
 * - `type` and `task_type` are the numbers of `common.v2.TaskType`. The attributes `tag`, `app` and
 *   `priority` of stock Dragonfly are not available here.
 * - Prometheus exporters append `_total` to the names of counters that lack it.
 * - Ids and addresses are attributes of spans only.
 * - Operations that the caller aborted do not count as failures.
 *
 * gRPC calls transmit the trace context, in the format of the program's propagator (usually W3C
 * Trace Context). A server makes its spans children of the client's span. The Vortex protocol has
 * no field for a trace context.
 */
export function openTelemetry(api: OpenTelemetryApi): Telemetry {
  if (typeof api !== "object" || api === null)
    throw invalid("argument of openTelemetry", "the module @opentelemetry/api", api);
  requireKnownFields(api, apiChecks);
  const tracer = api.trace.getTracer(INSTRUMENTATION_SCOPE);
  const metrics = new Metrics(api.metrics.getMeter(INSTRUMENTATION_SCOPE));
  return {
    begin(start): Operation {
      const { headers } = start;
      const parent =
        headers && api.propagation.extract(api.context.active(), headers, headerGetter);
      const span = tracer.startSpan(
        start.name,
        { kind: kindOf(start), attributes: spanAttributes(start) },
        parent,
      );
      const began = performance.now();
      metrics.begin(start);
      return {
        run: (work) => api.context.with(api.trace.setSpan(api.context.active(), span), work),
        headers(): Record<string, string> {
          const carrier: Record<string, string> = {};
          api.propagation.inject(api.trace.setSpan(api.context.active(), span), carrier);
          return carrier;
        },
        end(result): void {
          metrics.end(start, result, performance.now() - began);
          const { bytes, error } = result;
          if (bytes !== undefined) span.setAttribute("content_length", bytes);
          if (error !== undefined) {
            span.setAttribute("error.type", error.code);
            if (error.kind !== "aborted")
              span.setStatus({ code: STATUS_ERROR, message: error.message });
          }
          span.end();
        },
      };
    },
  };
}

/**
 * Part of the module `@opentelemetry/api`, version 1.3 or newer, that {@link openTelemetry} uses.
 */
export interface OpenTelemetryApi {
  /** Tracer provider, which creates spans. */
  readonly trace: {
    getTracer(name: string): {
      startSpan(name: string, options: SpanOptions, context?: Context): Span;
    };
    setSpan(context: Context, span: Span): Context;
  };
  /** Meter provider, which creates metrics. */
  readonly metrics: { getMeter(name: string): Meter };
  /** Context manager. A new span becomes a child of the span in the active context. */
  readonly context: { active(): Context; with<T>(context: Context, work: () => T): T };
  /** Propagator, which writes trace contexts to the headers of gRPC calls and reads them there. */
  readonly propagation: {
    inject(context: Context, carrier: Record<string, string>): void;
    extract(context: Context, carrier: Headers, getter: HeaderGetter): Context;
  };
}

interface Context {
  getValue(key: symbol): unknown;
}

type Attributes = Record<string, string | number>;

interface SpanOptions {
  readonly kind: number;
  readonly attributes: Attributes;
}

interface HeaderGetter {
  get(carrier: Headers, name: string): string | undefined;
  keys(carrier: Headers): string[];
}

interface Span {
  setAttribute(name: string, value: string | number): unknown;
  setStatus(status: { code: number; message?: string }): unknown;
  end(): void;
}

interface Meter {
  createCounter(name: string, options: InstrumentOptions): Adder;
  createUpDownCounter(name: string, options: InstrumentOptions): Adder;
  createHistogram(
    name: string,
    options: InstrumentOptions,
  ): { record(value: number, attributes: Attributes): void };
}

interface InstrumentOptions {
  description: string;
  unit?: string;
  advice?: { explicitBucketBoundaries: number[] };
}

interface Adder {
  add(value: number, attributes: Attributes): void;
}

const headerGetter: HeaderGetter = {
  get: (carrier, name) => carrier.get(name) ?? undefined,
  keys: (carrier) => [...carrier.keys()],
};

const INSTRUMENTATION_SCOPE = "vortex-peer";
const PREFIX = "dragonfly_client_";
/** Numbers of `SpanKind` and `SpanStatusCode` in the OpenTelemetry API. */
const SPAN_SERVER = 1;
const SPAN_CLIENT = 2;
const STATUS_ERROR = 2;

/** Numbers of the Protobuf enum `common.v2.TaskType`, by kind of task. */
const TASK_TYPES: Record<PieceKind, string> = {
  standard: "0",
  persistent: "1",
  "persistent-cache": "2",
  cache: "3",
};

/**
 * Upper bounds (exclusive) in MiB of the task size levels of stock Dragonfly, from level 1. Level 0
 * is for empty tasks, and the level after the last bound for larger tasks.
 */
const SIZE_LEVELS_MIB = [
  1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144,
  524_288, 1_048_576,
];

/**
 * Upper bounds in ms of the histogram buckets for durations: powers of two from 1 to 2^23, like
 * stock Dragonfly.
 */
const DURATION_BUCKETS_MS = Array.from({ length: 24 }, (_, power) => 2 ** power);

/**
 * Reports operations as OpenTelemetry metrics. Creates each instrument at its first use, so a
 * metric without operations is not exported.
 */
class Metrics {
  readonly #meter: Meter;
  readonly #counters = new Map<string, Adder>();
  #duration: { record(value: number, attributes: Attributes): void } | undefined;

  constructor(meter: Meter) {
    this.#meter = meter;
  }

  begin(start: OperationStart): void {
    const metric = metricOf(start);
    if (metric === undefined) return;
    this.#add(`${metric}_total`, 1, typeOf(start));
    const concurrent = concurrentMetricOf(start);
    if (concurrent !== undefined) this.#add(concurrent, 1, typeOf(start));
  }

  end(start: OperationStart, { bytes, error }: OperationResult, milliseconds: number): void {
    const metric = metricOf(start);
    const concurrent = concurrentMetricOf(start);
    if (concurrent !== undefined) this.#add(concurrent, -1, typeOf(start));
    if (error === undefined) this.#countSuccess(start, bytes ?? 0, milliseconds);
    if (error === undefined || error.kind === "aborted" || metric === undefined) return;
    const attributes = start.name === "download_piece" ? { error_type: error.code } : typeOf(start);
    this.#add(`${metric}_failure_total`, 1, attributes);
  }

  /**
   * Records a successful operation: the transferred bytes of a piece or of an upload, or the
   * duration of a task download.
   */
  #countSuccess(start: OperationStart, bytes: number, milliseconds: number): void {
    const { name, role } = start;
    if (name === "download_piece" && role === "client") {
      this.#add("download_traffic", bytes, { type: "REMOTE_PEER" }, "By");
    } else if (role === "server" && (name === "download_piece" || name === "download_task")) {
      this.#add("upload_traffic", bytes, {}, "By");
    } else if (name === "download_task") {
      this.#duration ??= this.#meter.createHistogram(
        `${PREFIX}download_task_duration_milliseconds`,
        {
          description: "Time of complete task downloads.",
          unit: "ms",
          advice: { explicitBucketBoundaries: DURATION_BUCKETS_MS },
        },
      );
      const level =
        bytes === 0
          ? 0
          : SIZE_LEVELS_MIB.filter((bound) => bytes >= bound * 1024 * 1024).length + 1;
      this.#duration.record(milliseconds, {
        task_type: TASK_TYPES[start.kind ?? "standard"],
        task_size_level: String(level),
      });
    }
  }

  #add(name: string, value: number, attributes: Attributes, unit?: string): void {
    let counter = this.#counters.get(name);
    if (counter === undefined) {
      const options = { description: descriptionOf(name), ...(unit !== undefined && { unit }) };
      const full = PREFIX + name;
      counter = name.startsWith("concurrent_")
        ? this.#meter.createUpDownCounter(full, options)
        : this.#meter.createCounter(full, options);
      this.#counters.set(name, counter);
    }
    counter.add(value, attributes);
  }
}

/**
 * Returns the name of the metric for an operation, as in stock Dragonfly. The name has no prefix
 * and no suffix such as `_total`. Returns undefined for an operation without a metric.
 */
function metricOf({ name, role }: OperationStart): string | undefined {
  if (name === "download_piece") return role === "client" ? "download_piece" : "upload_piece";
  if (name === "download_task") return role === "client" ? "download_task" : undefined;
  return role === "server" && name !== "sync_pieces" ? name : undefined;
}

function concurrentMetricOf(start: OperationStart): string | undefined {
  const metric = metricOf(start);
  return metric === "download_task" || metric === "upload_piece"
    ? `concurrent_${metric}_total`
    : undefined;
}

/**
 * Returns the metric attribute `type` with the kind of task. Metrics of pieces do not have it, as
 * in stock Dragonfly.
 */
function typeOf({ name, kind = "standard" }: OperationStart): Attributes {
  return name === "download_piece" ? {} : { type: TASK_TYPES[kind] };
}

function descriptionOf(name: string): string {
  return `${name.replace(/_total$/, "").replaceAll("_", " ")}, as dragonfly-client counts it`;
}

function kindOf({ role }: OperationStart): number {
  return role === "server" ? SPAN_SERVER : SPAN_CLIENT;
}

/** Returns the attributes of a span, with the names that stock Dragonfly uses. */
function spanAttributes({
  taskId,
  number,
  addr,
  kind,
  protocol,
  protocolReason,
}: OperationStart): Attributes {
  return {
    task_id: taskId,
    ...(number !== undefined && { piece_id: `${taskId}-${number}` }),
    ...(addr !== undefined && { remote_address: addr }),
    ...(kind !== undefined && { task_type: kind }),
    ...(protocol !== undefined && { "network.protocol.name": protocol }),
    ...(protocolReason !== undefined && { "vortex_peer.protocol.reason": protocolReason }),
  };
}

const apiChecks: Checks<OpenTelemetryApi> = {
  trace: required(implementing("the trace API", "getTracer", "setSpan")),
  metrics: required(implementing("the metrics API", "getMeter")),
  context: required(implementing("the context API", "active", "with")),
  propagation: required(implementing("the propagation API", "inject", "extract")),
};
