/**
 * gRPC peer that sends faulty responses. The task id of a request selects the fault. So one server
 * can send all faults to any number of clients.
 */
import { Buffer } from "node:buffer";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import { metadataDigest } from "../../src/digest/piece-metadata.ts";
import { VortexError } from "../../src/errors.ts";
import type { PieceSchema } from "../../src/gen/common/v2/common_pb.ts";
import {
  DownloadPersistentCacheTaskResponseSchema,
  DownloadPieceResponseSchema,
  StatLocalTaskResponseSchema,
  SyncPiecesResponseSchema,
} from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { crc32Of } from "./hostile.ts";
import {
  type Fields,
  Flag,
  Frame,
  frame,
  type Http2Exchange,
  type Http2Script,
  headerBlock,
  uint32s,
} from "./hostile-http2.ts";
import type { FaultGroup, FaultOutcome } from "./hostile-vortex.ts";
import { joined, seededBytes } from "./random.ts";

/**
 * Short name of an RPC method: DownloadPiece, StatLocalTask, SyncPieces or
 * DownloadPersistentCacheTask.
 */
export type GrpcCall = "piece" | "stat" | "sync" | "task";

/** Short names of all RPC methods. A task id contains the index of a name. */
export const grpcCalls: readonly GrpcCall[] = ["piece", "stat", "sync", "task"];

/** Kind of faulty response that a {@link hostileGrpc} server can send. */
export interface GrpcFault {
  readonly name: string;
  readonly group: FaultGroup;
  /** RPC methods to which the fault applies. Default: all. */
  readonly calls?: readonly GrpcCall[];
  /**
   * Returns the number of variants of the fault for an RPC method. Variants are numbered from 0.
   * Default: 1.
   */
  readonly variants?: (call: GrpcCall) => number;
  /** Returns the allowed outcomes of a call that receives this faulty response. */
  codes(call: GrpcCall, variant: number): readonly FaultOutcome[];
  /** True if a call that receives this fault may wait until its deadline. */
  readonly silent?: boolean;
  play(exchange: Http2Exchange, answer: ValidAnswer): void;
}

/** Valid response to a request, which a fault changes before it is sent. */
export interface ValidAnswer {
  readonly call: GrpcCall;
  /** Number of the variant of the fault, which the task id of the request selects. */
  readonly variant: number;
  /** Task id of the request. */
  readonly taskId: string;
  readonly messages: readonly Uint8Array[];
}

const ID = /[0-3][0-9a-f]{7}(?:fa){28}/;

/**
 * Returns a task id that selects a fault and its variant. Without `fault`, the id selects the valid
 * response.
 */
export function grpcFaultId(call: GrpcCall, fault?: GrpcFault, variant = 0): string {
  const index = fault === undefined ? 0xfff : grpcFaults.indexOf(fault);
  const digits = [grpcCalls.indexOf(call).toString(16), hex(index, 3), hex(variant, 4)].join("");
  return digits + "fa".repeat(28);
}

/**
 * Script of an HTTP/2 server that sends the faulty response selected by the task id of each
 * request.
 */
export const hostileGrpc: Http2Script = (exchange) => {
  const id = ID.exec(Buffer.from(exchange.body).toString("latin1"))?.[0];
  const call = grpcCalls[Number.parseInt(id?.[0] ?? "", 16)];
  if (id === undefined || call === undefined) {
    exchange.socket.resetAndDestroy();
    return;
  }
  const variant = Number.parseInt(id.slice(4, 8), 16);
  const answer = { call, variant, taskId: id, messages: validMessages(call, id) };
  const fault = grpcFaults[Number.parseInt(id.slice(1, 4), 16)];
  if (fault === undefined)
    send(exchange, joined(answer.messages.map((message) => envelope(message))));
  else fault.play(exchange, answer);
};

/**
 * Calls an RPC method and returns the outcome. Throws on wrong data, and on errors other than
 * `VortexError`.
 *
 * Compares all bytes of content. Checks only the form of stat results and piece announcements,
 * because a client has nothing to compare them with.
 */
export async function callGrpc(
  downloader: Pick<GrpcDownloader, "downloadPiece" | "statTask" | "syncPieces" | "downloadTask">,
  addr: string,
  call: GrpcCall,
  taskId: string,
  options: {
    readonly stallTimeout?: number | undefined;
    readonly pieceTimeout?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  } = {},
): Promise<FaultOutcome> {
  const hostId = "10.0.0.1-host";
  const requireSame = (bytes: Uint8Array, expected: Uint8Array): void => {
    if (Buffer.compare(bytes, expected) !== 0) throw new Error(`wrong bytes for task ${taskId}`);
  };
  try {
    if (call === "piece") {
      const piece = await downloader.downloadPiece({
        addr,
        hostId,
        taskId,
        number: PIECE_NUMBER,
        ...options,
      });
      requireSame(await piece.bytes(), CONTENT);
    } else if (call === "stat") {
      await downloader.statTask(addr, taskId, options);
    } else if (call === "sync") {
      const request = {
        taskId,
        hostId,
        contentLength: CONTENT.length,
        interestedPieceNumbers: [0, 1, 2],
      };
      for await (const { number, offset, length } of downloader.syncPieces(
        addr,
        request,
        options,
      )) {
        if (offset !== number * PIECE_LENGTH || length !== pieceBytes(number).length)
          throw new Error("a wrong piece");
      }
    } else {
      const task = await downloader.downloadTask(
        addr,
        { kind: "persistent-cache", taskId },
        options,
      );
      for await (const { number, content } of task) requireSame(content, pieceBytes(number));
    }
    return "right";
  } catch (error) {
    if (error instanceof VortexError) return error.code;
    throw error;
  }
}

// --- valid responses

const PIECE_NUMBER = 3;
const PIECE_LENGTH = 20;
const CONTENT = seededBytes(5, 50);
const PIECE_COUNT = 3;
const hashers = portableHashers;

function pieceBytes(number: number): Uint8Array {
  return CONTENT.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH);
}

type PieceFields = MessageInitShape<typeof PieceSchema>;

/**
 * Returns the fields of piece 3, for the valid response to DownloadPiece. `fields` overrides some
 * of them.
 */
function wholePiece(fields: PieceFields = {}): PieceFields {
  const length = BigInt(CONTENT.length);
  return {
    number: PIECE_NUMBER,
    offset: 60n,
    length,
    digest: crc32Of(CONTENT),
    content: CONTENT,
    parentId: "p",
    ...fields,
  };
}

/**
 * Returns the fields of a piece, for the valid response to DownloadPersistentCacheTask. `fields`
 * overrides some of them.
 */
function taskPiece(number: number, fields: PieceFields = {}): PieceFields {
  const content = pieceBytes(number);
  const offset = BigInt(number * PIECE_LENGTH);
  return {
    number,
    offset,
    length: BigInt(content.length),
    digest: crc32Of(content),
    content,
    ...fields,
  };
}

function pieceMessage(piece: PieceFields | undefined, digest?: string): Uint8Array {
  const init = { ...(piece && { piece }), ...(digest !== undefined && { digest }) };
  return toBinary(DownloadPieceResponseSchema, create(DownloadPieceResponseSchema, init));
}

function syncMessage(fields: MessageInitShape<typeof SyncPiecesResponseSchema>): Uint8Array {
  return toBinary(SyncPiecesResponseSchema, create(SyncPiecesResponseSchema, fields));
}

function announcement(
  number: number,
  fields: MessageInitShape<typeof SyncPiecesResponseSchema> = {},
): Uint8Array {
  const extent = {
    number,
    offset: BigInt(number * PIECE_LENGTH),
    length: BigInt(pieceBytes(number).length),
  };
  return syncMessage({ ...extent, ip: "127.0.0.1", tcpPort: 4005, quicPort: 4006, ...fields });
}

function statMessage(
  fields: MessageInitShape<typeof StatLocalTaskResponseSchema> = {},
): Uint8Array {
  const lengths = { contentLength: BigInt(CONTENT.length), pieceLength: BigInt(PIECE_LENGTH) };
  return toBinary(
    StatLocalTaskResponseSchema,
    create(StatLocalTaskResponseSchema, { ...lengths, ...fields }),
  );
}

function startedMessage(taskId: string, contentLength = BigInt(CONTENT.length)): Uint8Array {
  return taskMessage(taskId, {
    case: "downloadPersistentCacheTaskStartedResponse",
    value: { contentLength },
  });
}

function finishedMessage(taskId: string, piece: PieceFields): Uint8Array {
  return taskMessage(taskId, { case: "downloadPieceFinishedResponse", value: { piece } });
}

type TaskResponse = MessageInitShape<typeof DownloadPersistentCacheTaskResponseSchema>["response"];

function taskMessage(taskId: string, response: NonNullable<TaskResponse>): Uint8Array {
  const schema = DownloadPersistentCacheTaskResponseSchema;
  return toBinary(schema, create(schema, { hostId: "h", taskId, peerId: "p", response }));
}

function validMessages(call: GrpcCall, taskId: string): Uint8Array[] {
  const numbers = Array.from({ length: PIECE_COUNT }, (_, number) => number);
  switch (call) {
    case "piece": {
      const { number = 0, offset = 0n, length = 0n, digest = "" } = wholePiece();
      return [
        pieceMessage(
          wholePiece(),
          metadataDigest("crc32", { number, offset, length, digest }, hashers),
        ),
      ];
    }
    case "stat":
      return [statMessage()];
    case "sync":
      return numbers.map((number) => announcement(number));
    case "task":
      return [
        startedMessage(taskId),
        ...numbers.map((number) => finishedMessage(taskId, taskPiece(number))),
      ];
  }
}

// --- gRPC over HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)

const RESPONSE_HEADERS: Fields = { ":status": "200", "content-type": "application/grpc" };
const OK_TRAILERS: Fields = { "grpc-status": "0" };
/** Number of HTTP/2 error codes, for RST_STREAM and GOAWAY (RFC 9113, section 7). */
const ERROR_CODE_COUNT = 14;

/**
 * Encodes a gRPC message with its header. `announced` is the length in the header, which may be
 * wrong.
 */
function envelope(message: Uint8Array, flags = 0, announced: number = message.length): Uint8Array {
  return joined([Uint8Array.of(flags), uint32s(announced), message]);
}

function envelopes({ messages }: ValidAnswer): Uint8Array {
  return joined(messages.map((message) => envelope(message)));
}

/** Sends a complete response: headers, `body` as DATA frames, and trailers. */
function send(exchange: Http2Exchange, body: Uint8Array, trailers: Fields = OK_TRAILERS): void {
  exchange.headers(RESPONSE_HEADERS);
  exchange.data(body);
  exchange.headers(trailers, true);
}

/** Sends a response without trailers: headers, and `body` as DATA frames. The stream stays open. */
function begin(exchange: Http2Exchange, body: Uint8Array): void {
  exchange.headers(RESPONSE_HEADERS);
  if (body.length > 0) exchange.data(body);
}

/** Client's limit for a message without its piece content, in bytes, for each RPC method. */
const MAX_FIELD_BYTES: Readonly<Record<GrpcCall, number>> = {
  piece: 64 * 1024,
  stat: 512 * 1024,
  sync: 512 * 1024,
  task: 512 * 1024,
};
/** Client's limit for a message with its piece content, in bytes, for each RPC method. */
const MAX_MESSAGE_BYTES: Readonly<Record<GrpcCall, number>> = {
  ...MAX_FIELD_BYTES,
  piece: 64 * 1024 * 1024 + MAX_FIELD_BYTES.piece,
  task: 64 * 1024 * 1024 + MAX_FIELD_BYTES.piece,
};

/**
 * Encodes repeated protobuf fields of 2 bytes, `length` bytes in total. Each field is the varint 0
 * with field number `number`, which must be below 16.
 */
function unknownFields(number: number, length: number): Uint8Array {
  return new Uint8Array(length - (length % 2)).map((_, at) => (at % 2 === 0 ? number << 3 : 0));
}

/**
 * Encodes repeated protobuf fields of 2 bytes, `length` bytes in total. Each field is an empty
 * message with field number `number`, which must be below 16.
 */
function emptyMessages(number: number, length: number): Uint8Array {
  return new Uint8Array(length - (length % 2)).map((_, at) =>
    at % 2 === 0 ? (number << 3) | 2 : 0,
  );
}

// --- faults

const cutLengths = Object.fromEntries(
  grpcCalls.map((call) => [
    call,
    envelopes({
      call,
      variant: 0,
      taskId: "0".repeat(64),
      messages: validMessages(call, "0".repeat(64)),
    }).length,
  ]),
) as Record<GrpcCall, number>;
const cutCount = (call: GrpcCall): number => cutLengths[call];
/**
 * Returns the start of a response. The variant selects the end: before, in or after the first
 * message header, within the message, before the last byte, or at the end.
 */
const cutPrefix = ({ variant }: ValidAnswer, whole: Uint8Array): Uint8Array =>
  whole.subarray(0, [0, 3, 5, 20, whole.length - 1, whole.length][variant % CUT_COUNT]);
const CUT_COUNT = 6;

const lost = (): readonly FaultOutcome[] => ["ConnectionLost"];
const violation = (): readonly FaultOutcome[] => ["ProtocolViolation"];
const stalled = (): readonly FaultOutcome[] => ["Stalled"];
/** Returns the allowed outcomes of a call that receives a message of arbitrary bytes. */
const someMessage = (call: GrpcCall): readonly FaultOutcome[] => [
  ...([
    "ProtocolViolation",
    "PieceMismatch",
    "LengthMismatch",
    "DigestMismatch",
    "LimitExceeded",
    "TruncatedContent",
  ] as const),
  ...(call === "stat" ? (["NotFound", "right"] as const) : []),
];

/**
 * Creates a fault that replaces the messages of a response. The response still ends with status 0.
 */
function messageFault(
  name: string,
  call: GrpcCall,
  code: FaultOutcome,
  replace: (answer: ValidAnswer) => readonly Uint8Array[],
): GrpcFault {
  return {
    name,
    group: "wrong",
    calls: [call],
    codes: () => [code],
    play: (exchange, answer) =>
      send(exchange, joined(replace(answer).map((each) => envelope(each)))),
  };
}

/** Expected outcome of a call for each gRPC status code. The index is the status code. */
const statuses: readonly FaultOutcome[] = [
  "TruncatedContent",
  "StreamReset",
  "RemoteUnknown",
  "RemoteInvalidArgument",
  "PieceTimeout",
  "NotFound",
  "RemoteUnknown",
  "RemoteUnknown",
  "RemoteBusy",
  "RemoteUnknown",
  "RemoteUnknown",
  "RemoteInvalidArgument",
  "RemoteUnimplemented",
  "RemoteInternal",
  "RemoteBusy",
  "RemoteInternal",
  "RemoteUnknown",
];

/** Values of `grpc-status` that are not status codes. */
const invalidStatuses = ["17", "99", "4294967296", "-1", "abc", "", "NaN", "__proto__", "0 0"];
/** Values of `grpc-message` with invalid percent-encoding. */
const badlyEncoded = ["%", "%zz", "100%", "%ff%fe", "%e2%82"];
const httpStatuses = [
  "204",
  "301",
  "400",
  "401",
  "403",
  "404",
  "418",
  "429",
  "500",
  "502",
  "503",
  "504",
  "599",
];

/** HTTP/2 protocol violations: malformed frames, or frames where RFC 9113 forbids them. */
const violations: readonly ((exchange: Http2Exchange) => void)[] = [
  (exchange) => exchange.data(Uint8Array.of(0, 0, 0, 0, 0)),
  (exchange) => exchange.frame(Frame.Data, 0, new Uint8Array(9), 0),
  (exchange) => exchange.frame(Frame.Data, 0, new Uint8Array(9), 0x7ffffffe),
  (exchange) =>
    exchange.bytes(frame(Frame.Data, 0, exchange.stream, new Uint8Array(100), 0xffffff)),
  (exchange) => exchange.frame(Frame.PushPromise, Flag.EndHeaders, uint32s(2)),
  (exchange) => exchange.frame(Frame.Settings, 0, Uint8Array.of(0, 4, 0xff, 0xff, 0xff, 0xff), 0),
  (exchange) => exchange.frame(Frame.Settings, 0, new Uint8Array(5), 0),
  (exchange) => exchange.frame(Frame.WindowUpdate, 0, uint32s(0), 0),
  (exchange) => exchange.frame(Frame.WindowUpdate, 0, uint32s(0x7fffffff), 0),
  (exchange) => exchange.frame(Frame.Ping, 0, new Uint8Array(7), 0),
  (exchange) => exchange.frame(Frame.Continuation, Flag.EndHeaders, headerBlock(RESPONSE_HEADERS)),
  (exchange) => exchange.frame(Frame.Headers, Flag.EndHeaders, new Uint8Array(30).fill(0xff)),
  (exchange) => exchange.frame(Frame.Headers, Flag.EndHeaders, headerBlock(RESPONSE_HEADERS), 0),
  (exchange) =>
    exchange.frame(
      Frame.Headers,
      Flag.EndHeaders | Flag.Padded,
      Uint8Array.of(255, ...headerBlock(RESPONSE_HEADERS)),
    ),
  (exchange) => exchange.frame(Frame.Reset, 0, uint32s(0), 0),
  (exchange) => exchange.frame(Frame.Reset, 0, uint32s(2), 0x7fffffff),
  (exchange) => exchange.frame(Frame.GoAway, 0, uint32s(0, 0), 1),
  (exchange) => exchange.headers({ ":status": "200", ":status ": "200" }),
  (exchange) => exchange.headers({ "content-type": "application/grpc" }),
  (exchange) => exchange.headers({ ":status": "200", "Content-Type": "application/grpc" }),
  (exchange) => exchange.headers({ ":status": "two hundred", "content-type": "application/grpc" }),
  (exchange) =>
    exchange.bytes(new TextEncoder().encode("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
  (exchange) => exchange.bytes(seededBytes(exchange.stream, 2000)),
];

/**
 * All faults that a {@link hostileGrpc} server can send. A task id contains the index of a fault,
 * see {@link grpcFaultId}.
 */
export const grpcFaults: readonly GrpcFault[] = [
  {
    name: "a response truncated at any byte, with a clean end",
    group: "cut short",
    variants: cutCount,
    // A task without a piece counts as one that the peer has, so its pieces are requested.
    codes: (call) =>
      call === "sync"
        ? ["TruncatedContent", "right"]
        : call === "task"
          ? ["TruncatedContent", "ProtocolViolation"]
          : ["TruncatedContent"],
    play: (exchange, answer) => send(exchange, envelopes(answer).subarray(0, answer.variant)),
  },
  {
    name: "a response truncated at any byte, ended without trailers",
    group: "cut short",
    variants: (call) => cutCount(call) + 1,
    codes: () => ["TruncatedContent", "ProtocolViolation"],
    play(exchange, answer) {
      exchange.headers(RESPONSE_HEADERS);
      exchange.data(envelopes(answer).subarray(0, answer.variant), true);
    },
  },
  {
    name: "the connection lost after any byte",
    group: "reset or lost",
    variants: cutCount,
    codes: lost,
    play(exchange, answer) {
      begin(exchange, envelopes(answer).subarray(0, answer.variant));
      // Alternates between FIN and RST.
      if (answer.variant % 2 === 0) exchange.socket.end();
      else exchange.socket.resetAndDestroy();
    },
  },
  {
    name: "the connection lost before the response",
    group: "reset or lost",
    variants: () => 2,
    codes: lost,
    play: (exchange, { variant }) =>
      void (variant === 0 ? exchange.socket.end() : exchange.socket.resetAndDestroy()),
  },
  {
    name: "RST_STREAM before the response, with every code",
    group: "reset or lost",
    variants: () => ERROR_CODE_COUNT,
    codes: (_call, variant) => resetCodes(variant),
    play: (exchange, { variant }) => exchange.reset(variant),
  },
  {
    name: "RST_STREAM within the response or before its trailers, with every code",
    group: "reset or lost",
    variants: () => ERROR_CODE_COUNT * CUT_COUNT,
    codes: (_call, variant) => resetCodes(Math.floor(variant / CUT_COUNT)),
    play(exchange, answer) {
      begin(exchange, cutPrefix(answer, envelopes(answer)));
      exchange.reset(Math.floor(answer.variant / CUT_COUNT));
    },
  },
  {
    name: "RST_STREAM after the response",
    group: "reset or lost",
    variants: () => ERROR_CODE_COUNT,
    codes: () => ["right", "StreamReset", "ConnectionLost", "RemoteBusy"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      exchange.reset(answer.variant);
    },
  },
  {
    name: "GOAWAY that excludes the request, before or within the response, then FIN",
    group: "reset or lost",
    variants: () => ERROR_CODE_COUNT * CUT_COUNT,
    codes: lost,
    play(exchange, answer) {
      begin(exchange, cutPrefix(answer, envelopes(answer)));
      exchange.goAway(Math.floor(answer.variant / CUT_COUNT), 0);
      exchange.socket.end();
    },
  },
  {
    name: "GOAWAY within a response that completes",
    group: "reset or lost",
    variants: () => CUT_COUNT,
    codes: () => ["right"],
    play(exchange, answer) {
      const whole = envelopes(answer);
      const first = cutPrefix(answer, whole);
      begin(exchange, first);
      exchange.goAway(0, exchange.stream);
      exchange.data(whole.subarray(first.length));
      exchange.headers(OK_TRAILERS, true);
    },
  },
  {
    name: "GOAWAY after the response",
    group: "reset or lost",
    codes: () => ["right"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      exchange.goAway(0, exchange.stream);
      exchange.socket.end();
    },
  },
  { name: "no response", group: "silent", silent: true, codes: stalled, play: () => {} },
  {
    // Includes silence after each field of each message and after each frame.
    name: "silence after each byte of the response, or before its trailers",
    group: "silent",
    silent: true,
    variants: (call) => cutCount(call) + 1,
    codes: stalled,
    play: (exchange, answer) => begin(exchange, envelopes(answer).subarray(0, answer.variant)),
  },
  {
    name: "nested empty messages up to the size limit",
    group: "malformed",
    calls: ["stat", "task"],
    codes: () => ["LimitExceeded"],
    play: (exchange, { call, messages: [first = new Uint8Array(0)] }) =>
      send(
        exchange,
        envelope(
          joined([
            first,
            emptyMessages(call === "stat" ? 7 : 4, MAX_FIELD_BYTES[call] - first.length - 1),
          ]),
        ),
      ),
  },
  {
    name: "a message announced as 4 GiB",
    group: "malformed",
    codes: () => ["LimitExceeded"],
    play: (exchange) => begin(exchange, envelope(new Uint8Array(100), 0, 0xffffffff)),
  },
  {
    name: "a message announced one byte above the limit",
    group: "malformed",
    codes: () => ["LimitExceeded"],
    play: (exchange, { call }) =>
      begin(exchange, envelope(new Uint8Array(100), 0, MAX_MESSAGE_BYTES[call] + 1)),
  },
  {
    name: "a message announced at the limit and never sent",
    group: "silent",
    silent: true,
    codes: stalled,
    play: (exchange, { call }) =>
      begin(exchange, envelope(new Uint8Array(100), 0, MAX_MESSAGE_BYTES[call])),
  },
  {
    // A decoder that keeps unknown fields needs fifty times their memory; Node ended at 60 MiB of
    // them.
    name: "unknown fields above the field limit",
    group: "malformed",
    codes: () => ["LimitExceeded"],
    play: (exchange, { call, messages: [first = new Uint8Array(0)] }) =>
      send(exchange, envelope(joined([first, unknownFields(15, MAX_FIELD_BYTES[call])]))),
  },
  {
    name: "unknown fields within the field limit",
    group: "malformed",
    codes: () => ["right"],
    play(exchange, { call, messages: [first = new Uint8Array(0), ...rest] }) {
      const more = joined([first, unknownFields(15, MAX_FIELD_BYTES[call] - first.length - 1)]);
      send(exchange, joined([more, ...rest].map((each) => envelope(each))));
    },
  },
  {
    name: "a message flagged as compressed",
    group: "malformed",
    codes: violation,
    play: (exchange, { messages: [first = new Uint8Array(0)] }) =>
      send(exchange, envelope(first, 1)),
  },
  {
    name: "a compression that the client did not offer",
    group: "malformed",
    codes: violation,
    play(exchange, answer) {
      exchange.headers({ ...RESPONSE_HEADERS, "grpc-encoding": "gzip" });
      exchange.data(envelopes(answer));
      exchange.headers(OK_TRAILERS, true);
    },
  },
  {
    name: "a message of garbage",
    group: "malformed",
    variants: () => 50,
    codes: someMessage,
    play: (exchange, { variant }) =>
      send(exchange, envelope(seededBytes(variant, 1 + (variant % 90)))),
  },
  {
    name: "a message with one flipped bit",
    group: "wrong",
    calls: ["piece", "task"],
    variants: (call) => 8 * cutCount(call),
    // Some bits are not checked, such as those of the parent's id.
    codes: () => [...someMessage("piece"), "right"],
    play(exchange, { messages, variant }) {
      const body = joined(messages.map((each) => envelope(each)));
      const starts = messageOffsets(messages);
      const at = Math.floor(variant / 8);
      // Other faults cover changed message prefixes.
      if (starts.every((start) => at < start || at >= start + 5))
        body[at] = (body[at] ?? 0) ^ (1 << (variant % 8));
      else body[(starts.at(-1) ?? 0) + 5] = 0xff;
      send(exchange, body);
    },
  },
  {
    name: "a status without a message",
    group: "malformed",
    variants: () => statuses.length,
    codes: (call, variant) =>
      call === "sync" && variant === 0 ? ["right"] : [statuses[variant] ?? "right"],
    play: (exchange, { variant }) =>
      exchange.headers({ ...RESPONSE_HEADERS, "grpc-status": String(variant) }, true),
  },
  {
    name: "an error status after the messages",
    group: "malformed",
    variants: () => statuses.length - 1,
    // After UNIMPLEMENTED for StatLocalTask the client tries another call, whose response differs.
    codes: (call, variant) => [
      statuses[variant + 1] ?? "right",
      ...(call === "stat" && variant === 11 ? (["ProtocolViolation"] as const) : []),
    ],
    play: (exchange, answer) =>
      send(exchange, envelopes(answer), {
        "grpc-status": String(answer.variant + 1),
        "grpc-message": "no",
      }),
  },
  {
    name: "an invalid status code",
    group: "malformed",
    variants: () => 2 * invalidStatuses.length,
    codes: () => ["RemoteUnknown"],
    play(exchange, answer) {
      const status = { "grpc-status": invalidStatuses[answer.variant >> 1] ?? "" };
      if (answer.variant % 2 === 0) exchange.headers({ ...RESPONSE_HEADERS, ...status }, true);
      else send(exchange, envelopes(answer), status);
    },
  },
  {
    name: "a status message with invalid percent-encoding",
    group: "malformed",
    variants: () => 2 * badlyEncoded.length,
    codes: violation,
    play(exchange, answer) {
      const status = {
        "grpc-status": "5",
        "grpc-message": badlyEncoded[answer.variant >> 1] ?? "",
      };
      if (answer.variant % 2 === 0) exchange.headers({ ...RESPONSE_HEADERS, ...status }, true);
      else send(exchange, envelopes(answer), status);
    },
  },
  {
    name: "a status message of 60 KiB",
    group: "malformed",
    codes: () => ["NotFound"],
    play: (exchange) =>
      exchange.headers(
        { ...RESPONSE_HEADERS, "grpc-status": "5", "grpc-message": "y".repeat(60 * 1024) },
        true,
      ),
  },
  {
    name: "a status message of 1 MiB",
    group: "malformed",
    // Node silently drops a field block of this size.
    silent: true,
    codes: () => [
      "NotFound",
      "StreamReset",
      "ConnectionLost",
      "ProtocolViolation",
      "RemoteBusy",
      "Stalled",
    ],
    play: (exchange) =>
      exchange.headers(
        { ...RESPONSE_HEADERS, "grpc-status": "5", "grpc-message": "y".repeat(1024 * 1024) },
        true,
      ),
  },
  {
    name: "malformed status details",
    group: "malformed",
    variants: () => 3,
    // The status counts without its details.
    codes: () => ["NotFound"],
    play: (exchange, { variant }) =>
      exchange.headers(
        {
          ...RESPONSE_HEADERS,
          "grpc-status": "5",
          "grpc-status-details-bin": ["!", "////", "AAAA"][variant] ?? "",
        },
        true,
      ),
  },
  {
    name: "a plain HTTP response with an error status",
    group: "malformed",
    variants: () => httpStatuses.length,
    codes: (_call, variant) => httpCodes(httpStatuses[variant] ?? ""),
    play: (exchange, { variant }) =>
      exchange.headers({ ":status": httpStatuses[variant] ?? "" }, true),
  },
  {
    name: "a wrong or missing content type",
    group: "malformed",
    variants: () => 4,
    codes: violation,
    play(exchange, answer) {
      const type = ["text/html", "application/json", "application/grpc-web+proto"][answer.variant];
      exchange.headers({ ":status": "200", ...(type !== undefined && { "content-type": type }) });
      exchange.data(envelopes(answer));
      exchange.headers(OK_TRAILERS, true);
    },
  },
  {
    name: "frames that violate HTTP/2",
    group: "malformed",
    // Some runtimes ignore some violations; the call then stalls.
    silent: true,
    variants: () => violations.length,
    codes: () => ["ConnectionLost", "StreamReset", "ProtocolViolation", "Stalled"],
    play: (exchange, { variant }) => violations[variant]?.(exchange),
  },
  {
    name: "header fields without end",
    group: "malformed",
    codes: () => ["ConnectionLost", "StreamReset", "ProtocolViolation", "RemoteBusy"],
    play(exchange) {
      exchange.frame(Frame.Headers, 0, headerBlock(RESPONSE_HEADERS));
      const more = headerBlock({ "x-more": "y".repeat(16_000) });
      for (let count = 0; count < 100; count++) exchange.frame(Frame.Continuation, 0, more);
      exchange.socket.end();
    },
  },
  {
    name: "a frame of an unknown type, which a client ignores",
    group: "malformed",
    codes: () => ["right"],
    play(exchange, answer) {
      exchange.headers(RESPONSE_HEADERS);
      exchange.frame(0xfa, 0xff, new Uint8Array(20));
      exchange.data(envelopes(answer));
      exchange.headers(OK_TRAILERS, true);
    },
  },
  {
    name: "the messages twice",
    group: "wrong",
    codes: violation,
    play(exchange, answer) {
      const whole = envelopes(answer);
      send(exchange, joined([whole, whole]));
    },
  },
  {
    name: "a second response after the end of the first",
    group: "wrong",
    codes: () => ["right", "StreamReset", "ConnectionLost"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      send(exchange, envelopes(answer));
    },
  },

  messageFault("no piece", "piece", "ProtocolViolation", () => [pieceMessage(undefined)]),
  messageFault("another number", "piece", "PieceMismatch", () => [
    pieceMessage(wholePiece({ number: 4 })),
  ]),
  messageFault("the greatest number", "piece", "PieceMismatch", () => [
    pieceMessage(wholePiece({ number: 0xffffffff })),
  ]),
  messageFault(
    "an offset that the metadata digest does not cover",
    "piece",
    "DigestMismatch",
    ({ messages: [right] }) => [
      joined([right ?? new Uint8Array(0), pieceMessage({ offset: 61n })]),
    ],
  ),
  messageFault("an offset of 2^64 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ offset: 2n ** 64n - 1n })),
  ]),
  messageFault("a length of 2^64 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ length: 2n ** 64n - 1n })),
  ]),
  messageFault("a length of 2^32 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ length: 2n ** 32n - 1n })),
  ]),
  messageFault("content longer than announced", "piece", "LengthMismatch", () => [
    pieceMessage(wholePiece({ length: 49n })),
  ]),
  messageFault("content shorter than announced", "piece", "LengthMismatch", () => [
    pieceMessage(wholePiece({ length: 51n })),
  ]),
  messageFault("no content", "piece", "LengthMismatch", () => {
    const { content: _left, ...rest } = wholePiece();
    return [pieceMessage(rest)];
  }),
  messageFault("the digest of something else", "piece", "DigestMismatch", () => [
    pieceMessage(wholePiece({ digest: "crc32:1" })),
  ]),
  messageFault("no digest", "piece", "right", () => [pieceMessage(wholePiece({ digest: "" }))]),
  messageFault("a digest of an unknown algorithm", "piece", "ProtocolViolation", () => [
    pieceMessage(wholePiece({ digest: "md5:0" })),
  ]),
  messageFault("a wrong metadata digest", "piece", "DigestMismatch", () => [
    pieceMessage(wholePiece(), "crc32:1"),
  ]),
  messageFault("a malformed metadata digest", "piece", "ProtocolViolation", () => [
    pieceMessage(wholePiece(), "none"),
  ]),
  messageFault(
    "a text that is not UTF-8",
    "piece",
    "ProtocolViolation",
    ({ messages: [right] }) => [
      // Field 2 of the response is the digest; 0xff 0xfe cannot begin UTF-8 text.
      joined([right ?? new Uint8Array(0), Uint8Array.of(0x12, 2, 0xff, 0xfe)]),
    ],
  ),
  messageFault(
    "a parent id that is not UTF-8",
    "piece",
    "ProtocolViolation",
    ({ messages: [right] }) => [
      // Field 1 of the response is the piece; field 2 of the piece is the parent id.
      joined([right ?? new Uint8Array(0), Uint8Array.of(0x0a, 4, 0x12, 2, 0xff, 0xfe)]),
    ],
  ),
  messageFault(
    "a host id that is not UTF-8",
    "task",
    "ProtocolViolation",
    ({ messages: [right] }) => [
      // Field 1 of the response is the host id.
      joined([right ?? new Uint8Array(0), Uint8Array.of(0x0a, 2, 0xff, 0xfe)]),
    ],
  ),

  messageFault("no lengths", "stat", "NotFound", () => [new Uint8Array(0)]),
  messageFault("pieces of no length", "stat", "ProtocolViolation", () => [
    statMessage({ pieceLength: 0n }),
  ]),
  messageFault("pieces of 2^64 - 1, which is an unknown length", "stat", "NotFound", () => [
    statMessage({ pieceLength: 2n ** 64n - 1n }),
  ]),
  messageFault("content of 2^64 - 1, which is an unknown length", "stat", "NotFound", () => [
    statMessage({ contentLength: 2n ** 64n - 1n }),
  ]),

  messageFault("a piece that was not asked for", "sync", "ProtocolViolation", () => [
    announcement(0),
    announcement(3, { length: 1n }),
  ]),
  messageFault("a piece announced twice", "sync", "ProtocolViolation", () => [
    announcement(1),
    announcement(1),
  ]),
  messageFault("a piece of another length", "sync", "ProtocolViolation", () => [
    announcement(1, { length: 19n }),
  ]),
  messageFault("a piece of no length", "sync", "ProtocolViolation", () => [
    announcement(0, { length: 0n }),
  ]),
  messageFault("a piece at another offset", "sync", "ProtocolViolation", () => [
    announcement(1),
    announcement(2, { offset: 41n }),
  ]),
  messageFault("a piece of 2^64 - 1", "sync", "LimitExceeded", () => [
    announcement(1, { length: 2n ** 64n - 1n }),
  ]),
  messageFault("an offset of 2^64 - 1", "sync", "LimitExceeded", () => [
    announcement(1, { offset: 2n ** 64n - 1n }),
  ]),
  messageFault("an invalid IP address", "sync", "ProtocolViolation", () => [
    announcement(0, { ip: "../etc" }),
  ]),
  messageFault("a port above 65535", "sync", "ProtocolViolation", () => [
    announcement(0, { tcpPort: 70_000 }),
  ]),
  messageFault("a negative port", "sync", "ProtocolViolation", () => [
    announcement(0, { quicPort: -1 }),
  ]),
  messageFault("10,000 announcements", "sync", "ProtocolViolation", () =>
    Array.from({ length: 10_000 }, (_, number) => announcement(number % PIECE_COUNT)),
  ),
  {
    name: "an announcement stream that stays open",
    group: "silent",
    calls: ["sync"],
    silent: true,
    codes: stalled,
    play: (exchange) => begin(exchange, envelope(announcement(0))),
  },

  messageFault("another task", "task", "ProtocolViolation", () => [startedMessage("c".repeat(64))]),
  messageFault("a piece before the started response", "task", "ProtocolViolation", ({ taskId }) => [
    finishedMessage(taskId, taskPiece(0)),
  ]),
  // The responses to the requests for its pieces are those to DownloadTask.
  messageFault("a task of 2^64 - 1 without pieces", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId, 2n ** 64n - 1n),
  ]),
  messageFault("two started responses", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
    startedMessage(taskId),
  ]),
  messageFault("a started response without pieces", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
  ]),
  messageFault("a missing last piece", "task", "TruncatedContent", ({ messages }) =>
    messages.slice(0, -1),
  ),
  messageFault("a piece twice", "task", "ProtocolViolation", ({ messages }) => [
    ...messages,
    ...messages.slice(-1),
  ]),
  messageFault("a piece after the last", "task", "ProtocolViolation", ({ taskId, messages }) => [
    ...messages,
    finishedMessage(taskId, { ...taskPiece(0), number: 3, offset: 60n }),
  ]),
  messageFault("a piece under another number", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, { ...taskPiece(0), number: 1 }),
  ]),
  messageFault("a piece without content", "task", "ProtocolViolation", ({ taskId }) => {
    const { content: _left, ...rest } = taskPiece(0);
    return [startedMessage(taskId), finishedMessage(taskId, rest)];
  }),
  messageFault("a piece with wrong content", "task", "DigestMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: pieceBytes(1) })),
  ]),
  messageFault("a piece longer than announced", "task", "LengthMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: CONTENT.subarray(0, PIECE_LENGTH + 1) })),
  ]),
  messageFault("a piece shorter than announced", "task", "LengthMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: CONTENT.subarray(0, PIECE_LENGTH - 1) })),
  ]),
  messageFault("a piece of 2^32 - 1", "task", "LimitExceeded", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { length: 2n ** 32n - 1n })),
  ]),
  messageFault("a piece without a digest, then none", "task", "TruncatedContent", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { digest: "" })),
  ]),
];

function resetCodes(code: number): readonly FaultOutcome[] {
  // REFUSED_STREAM and ENHANCE_YOUR_CALM mean load (RFC 9113, section 7). NO_ERROR leaves a
  // truncated response.
  if (code === 7 || code === 11) return ["RemoteBusy"];
  return code === 0 ? ["StreamReset", "TruncatedContent", "ProtocolViolation"] : ["StreamReset"];
}

/**
 * Returns the expected outcomes of a call whose response has a given HTTP status. Connect maps the
 * status: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
 */
function httpCodes(status: string): readonly FaultOutcome[] {
  if (status === "404") return ["RemoteUnimplemented"];
  return ["429", "502", "503", "504"].includes(status) ? ["RemoteBusy"] : ["ProtocolViolation"];
}

function messageOffsets(messages: readonly Uint8Array[]): number[] {
  const starts: number[] = [];
  let at = 0;
  for (const { length } of messages) {
    starts.push(at);
    at += 5 + length;
  }
  return starts;
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}
