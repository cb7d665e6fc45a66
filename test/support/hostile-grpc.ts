/**
 * A peer that answers over gRPC wrongly, in every way that there is: what is wrong stands in the id of the task that it is asked
 * for, so that one server serves all faults, to any number of clients.
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
  words,
} from "./hostile-http2.ts";
import type { FaultGroup, FaultOutcome } from "./hostile-vortex.ts";
import { joined, seededBytes } from "./random.ts";

/** The calls of a client: DownloadPiece, StatLocalTask, SyncPieces, and DownloadPersistentCacheTask with content. */
export type GrpcCall = "piece" | "stat" | "sync" | "task";

/** All of them. */
export const grpcCalls: readonly GrpcCall[] = ["piece", "stat", "sync", "task"];

/** One way to be wrong. */
export interface GrpcFault {
  readonly name: string;
  readonly group: FaultGroup;
  /** The calls whose answers can be wrong in this way. Default: all. */
  readonly calls?: readonly GrpcCall[];
  /** How many forms it has, numbered from 0. Default 1. */
  readonly variants?: (call: GrpcCall) => number;
  /** What a call may end in. */
  codes(call: GrpcCall, variant: number): readonly FaultOutcome[];
  /** Whether the call may end by a deadline only. */
  readonly silent?: boolean;
  play(exchange: Http2Exchange, answer: RightAnswer): void;
}

/** What the peer ought to have answered. */
export interface RightAnswer {
  readonly call: GrpcCall;
  /** Which form of the fault is wanted. */
  readonly variant: number;
  /** The id that the client asked for. */
  readonly taskId: string;
  readonly messages: readonly Uint8Array[];
}

const ID = /[0-3][0-9a-f]{7}(?:fa){28}/;

/** The task whose id asks for a fault; without one, for the right answer. */
export function grpcFaultId(call: GrpcCall, fault?: GrpcFault, variant = 0): string {
  const index = fault === undefined ? 0xfff : grpcFaults.indexOf(fault);
  const digits = [grpcCalls.indexOf(call).toString(16), hex(index, 3), hex(variant, 4)].join("");
  return digits + "fa".repeat(28);
}

/** Answers each request as the id in it asks. */
export const hostileGrpc: Http2Script = (exchange) => {
  const id = ID.exec(Buffer.from(exchange.body).toString("latin1"))?.[0];
  const call = grpcCalls[Number.parseInt(id?.[0] ?? "", 16)];
  if (id === undefined || call === undefined) {
    exchange.socket.resetAndDestroy();
    return;
  }
  const variant = Number.parseInt(id.slice(4, 8), 16);
  const answer = { call, variant, taskId: id, messages: rightMessages(call, id) };
  const fault = grpcFaults[Number.parseInt(id.slice(1, 4), 16)];
  if (fault === undefined)
    send(exchange, joined(answer.messages.map((message) => envelope(message))));
  else fault.play(exchange, answer);
};

/**
 * Makes a call, and says how it ended. Fails for anything but a `VortexError`, and for an answer that is not the right one.
 *
 * Of a task's outline and of announcements nobody can tell right from wrong but by their form; all bytes of content are compared.
 */
export async function askGrpc(
  downloader: Pick<GrpcDownloader, "downloadPiece" | "statTask" | "syncPieces" | "downloadTask">,
  addr: string,
  call: GrpcCall,
  taskId: string,
  options: {
    readonly stallTimeout?: number;
    readonly pieceTimeout?: number;
    readonly signal?: AbortSignal;
  } = {},
): Promise<FaultOutcome> {
  const hostId = "10.0.0.1-host";
  const requireSame = (bytes: Uint8Array, expected: Uint8Array): void => {
    if (Buffer.compare(bytes, expected) !== 0) throw new Error(`wrong bytes for task ${taskId}`);
  };
  try {
    if (call === "piece") {
      const piece = await downloader.downloadPiece(
        { addr, hostId, taskId, number: NUMBER },
        options,
      );
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
        if (offset !== number * PIECE_LENGTH || length !== partOf(number).length)
          throw new Error("a wrong piece");
      }
    } else {
      const task = await downloader.downloadTask(
        addr,
        { kind: "persistent-cache", taskId },
        options,
      );
      for await (const { number, content } of task) requireSame(content, partOf(number));
    }
    return "right";
  } catch (error) {
    if (error instanceof VortexError) return error.code;
    throw error;
  }
}

// --- right answers

const NUMBER = 3;
const PIECE_LENGTH = 20;
const CONTENT = seededBytes(5, 50);
const PIECES = 3;
const hashers = portableHashers;

function partOf(number: number): Uint8Array {
  return CONTENT.subarray(number * PIECE_LENGTH, (number + 1) * PIECE_LENGTH);
}

type PieceFields = MessageInitShape<typeof PieceSchema>;

/** Piece 3 of DownloadPiece. */
function wholePiece(fields: PieceFields = {}): PieceFields {
  const length = BigInt(CONTENT.length);
  return {
    number: NUMBER,
    offset: 60n,
    length,
    digest: crc32Of(CONTENT),
    content: CONTENT,
    parentId: "p",
    ...fields,
  };
}

/** A piece of DownloadTask. */
function taskPiece(number: number, fields: PieceFields = {}): PieceFields {
  const content = partOf(number);
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
    length: BigInt(partOf(number).length),
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

function rightMessages(call: GrpcCall, taskId: string): Uint8Array[] {
  const numbers = Array.from({ length: PIECES }, (_, number) => number);
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

// --- frames of gRPC over HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)

const OPENING: Fields = { ":status": "200", "content-type": "application/grpc" };
const WELL: Fields = { "grpc-status": "0" };
/** Codes of RST_STREAM and GOAWAY (RFC 9113, section 7). */
const RESETS = 14;

/** A message of gRPC. `announced` is the length in its header. */
function envelope(message: Uint8Array, flags = 0, announced: number = message.length): Uint8Array {
  return joined([Uint8Array.of(flags), words(announced), message]);
}

function envelopes({ messages }: RightAnswer): Uint8Array {
  return joined(messages.map((message) => envelope(message)));
}

/** A whole answer with these bytes for its messages. */
function send(exchange: Http2Exchange, body: Uint8Array, trailers: Fields = WELL): void {
  exchange.headers(OPENING);
  exchange.data(body);
  exchange.headers(trailers, true);
}

/** As much of an answer as is there before its trailers. */
function begin(exchange: Http2Exchange, body: Uint8Array): void {
  exchange.headers(OPENING);
  if (body.length > 0) exchange.data(body);
}

/** Bytes of a message that are not its content. */
const MAX_FIELDS: Readonly<Record<GrpcCall, number>> = {
  piece: 64 * 1024,
  stat: 512 * 1024,
  sync: 512 * 1024,
  task: 512 * 1024,
};
/** Bytes of a message. */
const LONGEST: Readonly<Record<GrpcCall, number>> = {
  ...MAX_FIELDS,
  piece: 64 * 1024 * 1024 + MAX_FIELDS.piece,
  task: 64 * 1024 * 1024 + MAX_FIELDS.piece,
};

/** So many bytes of a field of two bytes each: an integer of 0, with a number below 16. */
function fields(number: number, length: number): Uint8Array {
  return new Uint8Array(length - (length % 2)).map((_, at) => (at % 2 === 0 ? number << 3 : 0));
}

/** So many bytes of a field of two bytes each: a message with nothing in it. */
function empties(number: number, length: number): Uint8Array {
  return new Uint8Array(length - (length % 2)).map((_, at) =>
    at % 2 === 0 ? (number << 3) | 2 : 0,
  );
}

// --- what can be wrong

const cutLengths = Object.fromEntries(
  grpcCalls.map((call) => [
    call,
    envelopes({
      call,
      variant: 0,
      taskId: "0".repeat(64),
      messages: rightMessages(call, "0".repeat(64)),
    }).length,
  ]),
) as Record<GrpcCall, number>;
const everyCut = (call: GrpcCall): number => cutLengths[call];
/** A few cuts: before, in and after the first message, and before the last byte. */
const someCut = ({ variant }: RightAnswer, whole: Uint8Array): Uint8Array =>
  whole.subarray(0, [0, 3, 5, 20, whole.length - 1, whole.length][variant % SOME_CUTS]);
const SOME_CUTS = 6;

const lost = (): readonly FaultOutcome[] => ["ConnectionLost"];
const violation = (): readonly FaultOutcome[] => ["ProtocolViolation"];
const stalled = (): readonly FaultOutcome[] => ["Stalled"];
/** What bytes that only look like a message may be taken for. */
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

/** An answer that ends well, with one other message or none in place of one of its own. */
function message(
  name: string,
  call: GrpcCall,
  code: FaultOutcome,
  spoil: (answer: RightAnswer) => readonly Uint8Array[],
): GrpcFault {
  return {
    name,
    group: "wrong",
    calls: [call],
    codes: () => [code],
    play: (exchange, answer) => send(exchange, joined(spoil(answer).map((each) => envelope(each)))),
  };
}

/** Statuses of gRPC by number, and what each becomes. */
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

/** Statuses that are none. */
const strangeStatuses = ["17", "99", "4294967296", "-1", "abc", "", "NaN", "__proto__", "0 0"];
/** Texts whose percent-encoding is wrong. */
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

/** Frames that are none, or stand where they may not (RFC 9113). */
const violations: readonly ((exchange: Http2Exchange) => void)[] = [
  (exchange) => exchange.data(Uint8Array.of(0, 0, 0, 0, 0)),
  (exchange) => exchange.frame(Frame.Data, 0, new Uint8Array(9), 0),
  (exchange) => exchange.frame(Frame.Data, 0, new Uint8Array(9), 0x7ffffffe),
  (exchange) =>
    exchange.bytes(frame(Frame.Data, 0, exchange.stream, new Uint8Array(100), 0xffffff)),
  (exchange) => exchange.frame(Frame.PushPromise, Flag.EndHeaders, words(2)),
  (exchange) => exchange.frame(Frame.Settings, 0, Uint8Array.of(0, 4, 0xff, 0xff, 0xff, 0xff), 0),
  (exchange) => exchange.frame(Frame.Settings, 0, new Uint8Array(5), 0),
  (exchange) => exchange.frame(Frame.WindowUpdate, 0, words(0), 0),
  (exchange) => exchange.frame(Frame.WindowUpdate, 0, words(0x7fffffff), 0),
  (exchange) => exchange.frame(Frame.Ping, 0, new Uint8Array(7), 0),
  (exchange) => exchange.frame(Frame.Continuation, Flag.EndHeaders, headerBlock(OPENING)),
  (exchange) => exchange.frame(Frame.Headers, Flag.EndHeaders, new Uint8Array(30).fill(0xff)),
  (exchange) => exchange.frame(Frame.Headers, Flag.EndHeaders, headerBlock(OPENING), 0),
  (exchange) =>
    exchange.frame(
      Frame.Headers,
      Flag.EndHeaders | Flag.Padded,
      Uint8Array.of(255, ...headerBlock(OPENING)),
    ),
  (exchange) => exchange.frame(Frame.Reset, 0, words(0), 0),
  (exchange) => exchange.frame(Frame.Reset, 0, words(2), 0x7fffffff),
  (exchange) => exchange.frame(Frame.GoAway, 0, words(0, 0), 1),
  (exchange) => exchange.headers({ ":status": "200", ":status ": "200" }),
  (exchange) => exchange.headers({ "content-type": "application/grpc" }),
  (exchange) => exchange.headers({ ":status": "200", "Content-Type": "application/grpc" }),
  (exchange) => exchange.headers({ ":status": "two hundred", "content-type": "application/grpc" }),
  (exchange) =>
    exchange.bytes(new TextEncoder().encode("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
  (exchange) => exchange.bytes(seededBytes(exchange.stream, 2000)),
];

/** Every fault. Its place in the list stands in ids, see {@link grpcFaultId}. */
export const grpcFaults: readonly GrpcFault[] = [
  {
    name: "the answer cut after any byte, and ended well",
    group: "cut short",
    variants: everyCut,
    codes: (call) => (call === "sync" ? ["TruncatedContent", "right"] : ["TruncatedContent"]),
    play: (exchange, answer) => send(exchange, envelopes(answer).subarray(0, answer.variant)),
  },
  {
    name: "the answer cut after any byte, and ended without trailers",
    group: "cut short",
    variants: (call) => everyCut(call) + 1,
    codes: () => ["TruncatedContent", "ProtocolViolation"],
    play(exchange, answer) {
      exchange.headers(OPENING);
      exchange.data(envelopes(answer).subarray(0, answer.variant), true);
    },
  },
  {
    name: "the connection lost after any byte",
    group: "reset or lost",
    variants: everyCut,
    codes: lost,
    play(exchange, answer) {
      begin(exchange, envelopes(answer).subarray(0, answer.variant));
      // In turn in good order and by a reset.
      if (answer.variant % 2 === 0) exchange.socket.end();
      else exchange.socket.resetAndDestroy();
    },
  },
  {
    name: "the connection lost before the answer",
    group: "reset or lost",
    variants: () => 2,
    codes: lost,
    play: (exchange, { variant }) =>
      void (variant === 0 ? exchange.socket.end() : exchange.socket.resetAndDestroy()),
  },
  {
    name: "RST_STREAM before the answer, with every code",
    group: "reset or lost",
    variants: () => RESETS,
    codes: (_call, variant) => resetCodes(variant),
    play: (exchange, { variant }) => exchange.reset(variant),
  },
  {
    name: "RST_STREAM within the answer and before its trailers, with every code",
    group: "reset or lost",
    variants: () => RESETS * SOME_CUTS,
    codes: (_call, variant) => resetCodes(Math.floor(variant / SOME_CUTS)),
    play(exchange, answer) {
      begin(exchange, someCut(answer, envelopes(answer)));
      exchange.reset(Math.floor(answer.variant / SOME_CUTS));
    },
  },
  {
    name: "RST_STREAM after the answer",
    group: "reset or lost",
    variants: () => RESETS,
    codes: () => ["right", "StreamReset", "ConnectionLost", "RemoteBusy"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      exchange.reset(answer.variant);
    },
  },
  {
    name: "GOAWAY for this request, before and within the answer, and the end",
    group: "reset or lost",
    variants: () => RESETS * SOME_CUTS,
    codes: lost,
    play(exchange, answer) {
      begin(exchange, someCut(answer, envelopes(answer)));
      exchange.goAway(Math.floor(answer.variant / SOME_CUTS), 0);
      exchange.socket.end();
    },
  },
  {
    name: "GOAWAY within the answer, which goes on to its end",
    group: "reset or lost",
    variants: () => SOME_CUTS,
    codes: () => ["right"],
    play(exchange, answer) {
      const whole = envelopes(answer);
      const first = someCut(answer, whole);
      begin(exchange, first);
      exchange.goAway(0, exchange.stream);
      exchange.data(whole.subarray(first.length));
      exchange.headers(WELL, true);
    },
  },
  {
    name: "GOAWAY after the answer",
    group: "reset or lost",
    codes: () => ["right"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      exchange.goAway(0, exchange.stream);
      exchange.socket.end();
    },
  },
  { name: "no answer at all", group: "silent", silent: true, codes: stalled, play: () => {} },
  {
    // So after each field of each message, and each frame.
    name: "silence after each byte of the answer, or without its trailers",
    group: "silent",
    silent: true,
    variants: (call) => everyCut(call) + 1,
    codes: stalled,
    play: (exchange, answer) => begin(exchange, envelopes(answer).subarray(0, answer.variant)),
  },
  {
    name: "messages in a message, as many empty ones as there may be bytes",
    group: "malformed",
    calls: ["stat", "task"],
    codes: () => ["LimitExceeded"],
    play: (exchange, { call, messages: [first = new Uint8Array(0)] }) =>
      send(
        exchange,
        envelope(
          joined([first, empties(call === "stat" ? 7 : 4, MAX_FIELDS[call] - first.length - 1)]),
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
    name: "a message announced with a byte beyond the limit",
    group: "malformed",
    codes: () => ["LimitExceeded"],
    play: (exchange, { call }) =>
      begin(exchange, envelope(new Uint8Array(100), 0, LONGEST[call] + 1)),
  },
  {
    name: "a message announced as long as the limit, which does not come",
    group: "silent",
    silent: true,
    codes: stalled,
    play: (exchange, { call }) => begin(exchange, envelope(new Uint8Array(100), 0, LONGEST[call])),
  },
  {
    // A decoder that keeps them takes fifty times their memory; Node ended at 60 MiB of them.
    name: "fields that nobody knows, as many as there may be bytes of content",
    group: "malformed",
    codes: () => ["LimitExceeded"],
    play: (exchange, { call, messages: [first = new Uint8Array(0)] }) =>
      send(exchange, envelope(joined([first, fields(15, MAX_FIELDS[call])]))),
  },
  {
    name: "fields that nobody knows, no more than there may be of others",
    group: "malformed",
    codes: () => ["right"],
    play(exchange, { call, messages: [first = new Uint8Array(0), ...rest] }) {
      const more = joined([first, fields(15, MAX_FIELDS[call] - first.length - 1)]);
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
    name: "an encoding that was not asked for",
    group: "malformed",
    codes: violation,
    play(exchange, answer) {
      exchange.headers({ ...OPENING, "grpc-encoding": "gzip" });
      exchange.data(envelopes(answer));
      exchange.headers(WELL, true);
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
    name: "a bit of a message changed",
    group: "wrong",
    calls: ["piece", "task"],
    variants: (call) => 8 * everyCut(call),
    // Some bits mean nothing, such as those of the parent's name.
    codes: () => [...someMessage("piece"), "right"],
    play(exchange, { messages, variant }) {
      const body = joined(messages.map((each) => envelope(each)));
      const starts = startsOf(messages);
      const at = Math.floor(variant / 8);
      // What the header of a message is changed to is the other faults' affair.
      if (starts.every((start) => at < start || at >= start + 5))
        body[at] = (body[at] ?? 0) ^ (1 << (variant % 8));
      else body[(starts.at(-1) ?? 0) + 5] = 0xff;
      send(exchange, body);
    },
  },
  {
    name: "a status in place of an answer",
    group: "malformed",
    variants: () => statuses.length,
    codes: (call, variant) =>
      call === "sync" && variant === 0 ? ["right"] : [statuses[variant] ?? "right"],
    play: (exchange, { variant }) =>
      exchange.headers({ ...OPENING, "grpc-status": String(variant) }, true),
  },
  {
    name: "a status of failure after the answer",
    group: "malformed",
    variants: () => statuses.length - 1,
    // A stat that is not served is asked for by another call, whose answer this is not.
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
    name: "a status that is none",
    group: "malformed",
    variants: () => 2 * strangeStatuses.length,
    codes: () => ["RemoteUnknown"],
    play(exchange, answer) {
      const status = { "grpc-status": strangeStatuses[answer.variant >> 1] ?? "" };
      if (answer.variant % 2 === 0) exchange.headers({ ...OPENING, ...status }, true);
      else send(exchange, envelopes(answer), status);
    },
  },
  {
    name: "a status whose text is badly encoded",
    group: "malformed",
    variants: () => 2 * badlyEncoded.length,
    codes: violation,
    play(exchange, answer) {
      const status = {
        "grpc-status": "5",
        "grpc-message": badlyEncoded[answer.variant >> 1] ?? "",
      };
      if (answer.variant % 2 === 0) exchange.headers({ ...OPENING, ...status }, true);
      else send(exchange, envelopes(answer), status);
    },
  },
  {
    name: "a status with a text of 60 KiB",
    group: "malformed",
    codes: () => ["NotFound"],
    play: (exchange) =>
      exchange.headers(
        { ...OPENING, "grpc-status": "5", "grpc-message": "y".repeat(60 * 1024) },
        true,
      ),
  },
  {
    name: "a status with a text of 1 MiB",
    group: "malformed",
    // Node drops so long a block of fields without a word.
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
        { ...OPENING, "grpc-status": "5", "grpc-message": "y".repeat(1024 * 1024) },
        true,
      ),
  },
  {
    name: "details of a status that are garbage",
    group: "malformed",
    variants: () => 3,
    codes: violation,
    play: (exchange, { variant }) =>
      exchange.headers(
        {
          ...OPENING,
          "grpc-status": "5",
          "grpc-status-details-bin": ["!", "////", "AAAA"][variant] ?? "",
        },
        true,
      ),
  },
  {
    name: "an answer of HTTP alone, by its status",
    group: "malformed",
    variants: () => httpStatuses.length,
    codes: (_call, variant) => httpCodes(httpStatuses[variant] ?? ""),
    play: (exchange, { variant }) =>
      exchange.headers({ ":status": httpStatuses[variant] ?? "" }, true),
  },
  {
    name: "another content type, or none",
    group: "malformed",
    variants: () => 4,
    codes: violation,
    play(exchange, answer) {
      const type = ["text/html", "application/json", "application/grpc-web+proto"][answer.variant];
      exchange.headers({ ":status": "200", ...(type !== undefined && { "content-type": type }) });
      exchange.data(envelopes(answer));
      exchange.headers(WELL, true);
    },
  },
  {
    name: "frames that break HTTP/2",
    group: "malformed",
    // Not every runtime looks at each of them; then nothing more comes.
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
      exchange.frame(Frame.Headers, 0, headerBlock(OPENING));
      const more = headerBlock({ "x-more": "y".repeat(16_000) });
      for (let count = 0; count < 100; count++) exchange.frame(Frame.Continuation, 0, more);
      exchange.socket.end();
    },
  },
  {
    name: "a frame of an unknown type, which is to be ignored",
    group: "malformed",
    codes: () => ["right"],
    play(exchange, answer) {
      exchange.headers(OPENING);
      exchange.frame(0xfa, 0xff, new Uint8Array(20));
      exchange.data(envelopes(answer));
      exchange.headers(WELL, true);
    },
  },
  {
    name: "the answer twice",
    group: "wrong",
    codes: violation,
    play(exchange, answer) {
      const whole = envelopes(answer);
      send(exchange, joined([whole, whole]));
    },
  },
  {
    name: "the answer twice, the second behind the end",
    group: "wrong",
    codes: () => ["right", "StreamReset", "ConnectionLost"],
    play(exchange, answer) {
      send(exchange, envelopes(answer));
      send(exchange, envelopes(answer));
    },
  },

  message("no piece", "piece", "ProtocolViolation", () => [pieceMessage(undefined)]),
  message("another number", "piece", "PieceMismatch", () => [
    pieceMessage(wholePiece({ number: 4 })),
  ]),
  message("the greatest number", "piece", "PieceMismatch", () => [
    pieceMessage(wholePiece({ number: 0xffffffff })),
  ]),
  message(
    "another offset than that of the digest",
    "piece",
    "DigestMismatch",
    ({ messages: [right] }) => [
      joined([right ?? new Uint8Array(0), pieceMessage({ offset: 61n })]),
    ],
  ),
  message("an offset of 2^64 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ offset: 2n ** 64n - 1n })),
  ]),
  message("a length of 2^64 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ length: 2n ** 64n - 1n })),
  ]),
  message("a length of 2^32 - 1", "piece", "LimitExceeded", () => [
    pieceMessage(wholePiece({ length: 2n ** 32n - 1n })),
  ]),
  message("content longer than announced", "piece", "LengthMismatch", () => [
    pieceMessage(wholePiece({ length: 49n })),
  ]),
  message("content shorter than announced", "piece", "LengthMismatch", () => [
    pieceMessage(wholePiece({ length: 51n })),
  ]),
  message("no content", "piece", "LengthMismatch", () => {
    const { content: _left, ...rest } = wholePiece();
    return [pieceMessage(rest)];
  }),
  message("the digest of something else", "piece", "DigestMismatch", () => [
    pieceMessage(wholePiece({ digest: "crc32:1" })),
  ]),
  message("no digest", "piece", "ProtocolViolation", () => [
    pieceMessage(wholePiece({ digest: "" })),
  ]),
  message("a digest of an unknown algorithm", "piece", "ProtocolViolation", () => [
    pieceMessage(wholePiece({ digest: "md5:0" })),
  ]),
  message("the metadata's digest of something else", "piece", "DigestMismatch", () => [
    pieceMessage(wholePiece(), "crc32:1"),
  ]),
  message("the metadata's digest is none", "piece", "ProtocolViolation", () => [
    pieceMessage(wholePiece(), "none"),
  ]),
  message("a text that is not UTF-8", "piece", "ProtocolViolation", ({ messages: [right] }) => [
    // Field 2, the digest, of two bytes that no text begins with.
    joined([right ?? new Uint8Array(0), Uint8Array.of(0x12, 2, 0xff, 0xfe)]),
  ]),
  message(
    "a parent's id that is not UTF-8",
    "piece",
    "ProtocolViolation",
    ({ messages: [right] }) => [
      // Field 1 of the answer is the piece, whose field 2 is that id.
      joined([right ?? new Uint8Array(0), Uint8Array.of(0x0a, 4, 0x12, 2, 0xff, 0xfe)]),
    ],
  ),
  message("a host's id that is not UTF-8", "task", "ProtocolViolation", ({ messages: [right] }) => [
    // Field 1 of the answer.
    joined([right ?? new Uint8Array(0), Uint8Array.of(0x0a, 2, 0xff, 0xfe)]),
  ]),

  message("no lengths", "stat", "NotFound", () => [new Uint8Array(0)]),
  message("pieces of no length", "stat", "ProtocolViolation", () => [
    statMessage({ pieceLength: 0n }),
  ]),
  message("pieces of 2^64 - 1", "stat", "ProtocolViolation", () => [
    statMessage({ pieceLength: 2n ** 64n - 1n }),
  ]),
  message("content of 2^64 - 1", "stat", "ProtocolViolation", () => [
    statMessage({ contentLength: 2n ** 64n - 1n }),
  ]),

  message("a piece that was not asked for", "sync", "ProtocolViolation", () => [
    announcement(0),
    announcement(3, { length: 1n }),
  ]),
  message("a piece announced twice", "sync", "ProtocolViolation", () => [
    announcement(1),
    announcement(1),
  ]),
  message("a piece of another length", "sync", "ProtocolViolation", () => [
    announcement(1, { length: 19n }),
  ]),
  message("a piece of no length", "sync", "ProtocolViolation", () => [
    announcement(0, { length: 0n }),
  ]),
  message("a piece at another offset", "sync", "ProtocolViolation", () => [
    announcement(1),
    announcement(2, { offset: 41n }),
  ]),
  message("a piece of 2^64 - 1", "sync", "LimitExceeded", () => [
    announcement(1, { length: 2n ** 64n - 1n }),
  ]),
  message("an offset of 2^64 - 1", "sync", "LimitExceeded", () => [
    announcement(1, { offset: 2n ** 64n - 1n }),
  ]),
  message("an address that is none", "sync", "ProtocolViolation", () => [
    announcement(0, { ip: "../etc" }),
  ]),
  message("a port that is none", "sync", "ProtocolViolation", () => [
    announcement(0, { tcpPort: 70_000 }),
  ]),
  message("a negative port", "sync", "ProtocolViolation", () => [
    announcement(0, { quicPort: -1 }),
  ]),
  message("announcements without end", "sync", "ProtocolViolation", () =>
    Array.from({ length: 10_000 }, (_, number) => announcement(number % PIECES)),
  ),
  {
    name: "announcements that never end",
    group: "silent",
    calls: ["sync"],
    silent: true,
    codes: stalled,
    play: (exchange) => begin(exchange, envelope(announcement(0))),
  },

  message("another task", "task", "ProtocolViolation", () => [startedMessage("c".repeat(64))]),
  message("a piece before what the task is", "task", "ProtocolViolation", ({ taskId }) => [
    finishedMessage(taskId, taskPiece(0)),
  ]),
  message("a task of 2^64 - 1", "task", "LimitExceeded", ({ taskId }) => [
    startedMessage(taskId, 2n ** 64n - 1n),
  ]),
  message("what the task is, twice", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
    startedMessage(taskId),
  ]),
  message("nothing but what the task is", "task", "TruncatedContent", ({ taskId }) => [
    startedMessage(taskId),
  ]),
  message("a piece too few", "task", "TruncatedContent", ({ messages }) => messages.slice(0, -1)),
  message("a piece twice", "task", "ProtocolViolation", ({ messages }) => [
    ...messages,
    ...messages.slice(-1),
  ]),
  message("a piece behind the last", "task", "ProtocolViolation", ({ taskId, messages }) => [
    ...messages,
    finishedMessage(taskId, { ...taskPiece(0), number: 3, offset: 60n }),
  ]),
  message("a piece under another number", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, { ...taskPiece(0), number: 1 }),
  ]),
  message("a piece without content", "task", "ProtocolViolation", ({ taskId }) => {
    const { content: _left, ...rest } = taskPiece(0);
    return [startedMessage(taskId), finishedMessage(taskId, rest)];
  }),
  message("a piece of other bytes", "task", "DigestMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: partOf(1) })),
  ]),
  message("a piece longer than announced", "task", "LengthMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: CONTENT.subarray(0, PIECE_LENGTH + 1) })),
  ]),
  message("a piece shorter than announced", "task", "LengthMismatch", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { content: CONTENT.subarray(0, PIECE_LENGTH - 1) })),
  ]),
  message("a piece of 2^32 - 1", "task", "LimitExceeded", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { length: 2n ** 32n - 1n })),
  ]),
  message("a piece without a digest", "task", "ProtocolViolation", ({ taskId }) => [
    startedMessage(taskId),
    finishedMessage(taskId, taskPiece(0, { digest: "" })),
  ]),
];

function resetCodes(code: number): readonly FaultOutcome[] {
  // REFUSED_STREAM and ENHANCE_YOUR_CALM are about load (RFC 9113, section 7); NO_ERROR leaves an answer that is not whole.
  if (code === 7 || code === 11) return ["RemoteBusy"];
  return code === 0 ? ["StreamReset", "TruncatedContent", "ProtocolViolation"] : ["StreamReset"];
}

/** As Connect takes statuses of HTTP: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md */
function httpCodes(status: string): readonly FaultOutcome[] {
  if (status === "404") return ["RemoteUnimplemented"];
  return ["429", "502", "503", "504"].includes(status) ? ["RemoteBusy"] : ["ProtocolViolation"];
}

function startsOf(messages: readonly Uint8Array[]): number[] {
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
