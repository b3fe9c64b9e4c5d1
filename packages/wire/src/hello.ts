/**
 * HELLO, in which an engine says what it needs, and WELCOME, in which a node says what it gives. The geometry travels whole:
 * a node knows nothing else of the model.
 */
import {
  type AttentionGeometry,
  type KvDtype,
  layerGroups,
  outputRowBytes,
  ProtocolError,
  qkvRowBytes,
  qkvRowFloats,
  ROW_DTYPES,
} from '@glinthawk/core';
import { foreignWords } from './foreign-words.ts';
import { frame, type OutgoingFrame } from './frame.ts';
import { FrameType, type WireDtype } from './frame-type.ts';
import { bytesToHex, decodeJson, encodeJson, type JsonFields } from './json-payload.ts';
import {
  MAX_BLOCK_OVERHEAD,
  MAX_CONTEXT_TOKENS,
  MAX_GROUP_SIZE,
  MAX_HEAD_DIM,
  MAX_KV_HEADS,
  MAX_LAYERS,
  MAX_NAME_CHARS,
  MAX_PAYLOAD_BYTES,
  MAX_ROWS,
  MAX_SHARD_BYTES,
  MAX_SHARDS,
  MAX_SLOTS,
  MAX_WORKERS,
  SECTION_ALIGN,
} from './limits.ts';

/** What frames mean. A node refuses any other version, naming its own. */
export const PROTOCOL_VERSION = 2;
export const NONCE_BYTES = 32;
export const PROOF_BYTES = 32;

export interface Hello {
  readonly protocolVersion: number;
  /** Random, the same for all connections of one engine to one node: a second HELLO of it replaces the first session. */
  readonly clientId: string;
  /** Random for every connection; part of the token proofs. */
  readonly nonce: Uint8Array; // [NONCE_BYTES]
  readonly fingerprint: string;
  readonly geometry: AttentionGeometry;
  readonly kvDtype: KvDtype;
  readonly wireDtype: WireDtype;
  /**
   * Who opened the connection; absent is the engine. A node that listens refuses `node`: such a HELLO was meant for one that came to
   * its engine by itself, and somebody in between relays it.
   */
  readonly connectedBy?: 'engine' | 'node';
}

/** The engine's credit: what one session may have under way at a node, which has room for it. Beyond it the node refuses. */
export interface SessionLimits {
  readonly maxSlots: number;
  /** Announced and not retired; each has one ATTEND under way at most. */
  readonly maxSteps: number;
  readonly maxStepRows: number;
}

export interface Welcome {
  readonly protocolVersion: number;
  /** For people. */
  readonly node: string;
  readonly wireDtype: WireDtype;
  /** A block holds so many tokens of one slot in one layer group. */
  readonly blockTokens: number;
  readonly blockBytes: number;
  readonly shardBlocks: readonly number[];
  /** Threads that kernels run on. */
  readonly workers: number;
  readonly limits: SessionLimits;
  /** That the node knows the token; null where it asked for none. */
  readonly proof: Uint8Array | null; // [PROOF_BYTES]
}

export function helloFrame(hello: Hello): OutgoingFrame {
  const { geometry } = hello;
  const json = {
    protocolVersion: hello.protocolVersion,
    clientId: hello.clientId,
    nonce: bytesToHex(hello.nonce),
    fingerprint: hello.fingerprint,
    kvDtype: hello.kvDtype,
    wireDtype: hello.wireDtype,
    connectedBy: hello.connectedBy,
    geometry: {
      layers: geometry.layers,
      kvHeads: geometry.kvHeads,
      groupSize: geometry.groupSize,
      headDim: geometry.headDim,
      softmaxScale: geometry.softmaxScale,
      windows: geometry.windows,
      maxContextTokens: geometry.maxContextTokens,
    },
  };
  return frame(FrameType.HELLO, {}, [encodeJson('HELLO', json)]);
}

/** @throws ProtocolError: WRONG_VERSION before anything else is looked at, else BAD_JSON or BAD_FIELD. */
export function decodeHello(payload: Uint8Array): Hello {
  const fields = decodeJson('HELLO', payload);
  return {
    protocolVersion: checkVersion(fields),
    clientId: fields.string('clientId', MAX_NAME_CHARS),
    nonce: fields.hexBytes('nonce', NONCE_BYTES),
    fingerprint: fields.string('fingerprint', MAX_NAME_CHARS),
    kvDtype: fields.oneOf('kvDtype', ['f32', 'f16', 'bf16', 'int8']),
    wireDtype: fields.oneOf('wireDtype', ROW_DTYPES),
    geometry: decodeGeometry(fields.object('geometry')),
    ...(fields.has('connectedBy') && { connectedBy: fields.oneOf('connectedBy', ['engine', 'node']) }),
  };
}

export function welcomeFrame(welcome: Welcome): OutgoingFrame {
  const json = { ...welcome, proof: welcome.proof === null ? undefined : bytesToHex(welcome.proof) };
  return frame(FrameType.WELCOME, {}, [encodeJson('WELCOME', json)]);
}

/** @throws ProtocolError */
export function decodeWelcome(payload: Uint8Array): Welcome {
  const fields = decodeJson('WELCOME', payload);
  const protocolVersion = checkVersion(fields);
  const limits = fields.object('limits');
  return {
    protocolVersion,
    node: foreignWords(fields.string('node', MAX_NAME_CHARS)),
    wireDtype: fields.oneOf('wireDtype', ROW_DTYPES),
    blockTokens: fields.integer('blockTokens', 1, MAX_CONTEXT_TOKENS),
    blockBytes: fields.integer('blockBytes', 1, Number.MAX_SAFE_INTEGER),
    shardBlocks: fields.integers('shardBlocks', MAX_SHARDS, 0, 2 ** 32 - 1),
    workers: fields.integer('workers', 1, MAX_WORKERS),
    limits: {
      maxSlots: limits.integer('maxSlots', 1, MAX_SLOTS),
      maxSteps: limits.integer('maxSteps', 1, 2 ** 20),
      maxStepRows: limits.integer('maxStepRows', 1, MAX_ROWS),
    },
    proof: fields.has('proof') ? fields.hexBytes('proof', PROOF_BYTES) : null,
  };
}

const KV_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/**
 * Whether a node can have what it promises to whom says HELLO: a promise that nobody can keep draws work to where it fails.
 * @throws ProtocolError
 */
export function checkPromise(
  { blockTokens, blockBytes, shardBlocks }: Welcome,
  { geometry, kvDtype }: Pick<Hello, 'geometry' | 'kvDtype'>,
): void {
  const { layers, kvHeads, headDim } = geometry;
  const groupLayers = layers / layerGroups(geometry).length;
  const bare = blockTokens * groupLayers * kvHeads * headDim * 2 * KV_BYTES[kvDtype];
  if (blockBytes < bare || blockBytes > bare * MAX_BLOCK_OVERHEAD) {
    throw new ProtocolError(
      'BAD_PROMISE',
      `WELCOME: a KV block of ${blockTokens} tokens takes ${bare} to ${bare * MAX_BLOCK_OVERHEAD} bytes, not ${blockBytes}`,
    );
  }
  const most = Math.max(0, ...shardBlocks);
  if (most * blockBytes <= MAX_SHARD_BYTES) return;
  throw new ProtocolError(
    'BAD_PROMISE',
    `WELCOME: a shard of ${most} blocks of ${blockBytes} bytes; one has at most ${MAX_SHARD_BYTES} bytes`,
  );
}

function checkVersion(fields: JsonFields): number {
  const version = fields.integer('protocolVersion', 0, 2 ** 32 - 1);
  if (version === PROTOCOL_VERSION) return version;
  throw new ProtocolError(
    'WRONG_VERSION',
    `the peer speaks protocol version ${version}, this side ${PROTOCOL_VERSION}`,
    {
      hint: 'run the same Glinthawk version on both machines',
    },
  );
}

function decodeGeometry(fields: JsonFields): AttentionGeometry {
  const layers = fields.integer('layers', 1, MAX_LAYERS);
  const windows = fields.integers('windows', MAX_LAYERS, 0, MAX_CONTEXT_TOKENS);
  if (windows.length !== layers) {
    throw new ProtocolError('BAD_FIELD', `HELLO.geometry: ${windows.length} windows for ${layers} layers`);
  }
  const geometry: AttentionGeometry = {
    layers,
    kvHeads: fields.integer('kvHeads', 1, MAX_KV_HEADS),
    groupSize: fields.integer('groupSize', 1, MAX_GROUP_SIZE),
    headDim: fields.integer('headDim', 1, MAX_HEAD_DIM),
    softmaxScale: fields.number('softmaxScale', -1e6, 1e6),
    windows,
    maxContextTokens: fields.integer('maxContextTokens', 1, MAX_CONTEXT_TOKENS),
  };
  if (geometry.headDim % 2 !== 0) {
    throw new ProtocolError('BAD_FIELD', `HELLO.geometry: headDim must be even, not ${geometry.headDim}`);
  }
  if (maxRowsPerFrame(geometry, 'f32') === 0) {
    throw new ProtocolError(
      'BAD_FIELD',
      `HELLO.geometry: a row of ${qkvRowFloats(geometry)} floats is over the frame cap`,
    );
  }
  return geometry;
}

/** Most rows that one ATTEND and its RESULT can carry within the frame cap. */
export function maxRowsPerFrame(geometry: AttentionGeometry, dtype: WireDtype): number {
  const attend = qkvRowBytes(geometry, dtype);
  const logSumExp = geometry.groupSize * geometry.kvHeads * 4;
  const result = outputRowBytes(geometry, dtype) + logSumExp;
  const padding = SECTION_ALIGN; // between o and the log-sum-exp, once a frame
  return Math.min(MAX_ROWS, Math.floor((MAX_PAYLOAD_BYTES - padding) / Math.max(attend, result)));
}
