/**
 * Writes the ONNX models that the peers run, without ONNX's own tools: protocol buffers by hand, of the few messages that take
 * part (onnx/onnx.proto). Not a general encoder.
 */

const FLOAT = 1; // TensorProto.DataType
const INT32 = 6;

type Bytes = Uint8Array<ArrayBuffer>;

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left];
    bytes.push((left % 128) + 128);
  }
}

function concat(parts: readonly Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const number = (field: number, value: number): Bytes => Uint8Array.from([...varint(field * 8), ...varint(value)]);
const bytes = (field: number, value: Uint8Array): Bytes =>
  concat([Uint8Array.from([...varint(field * 8 + 2), ...varint(value.length)]), value]);
const text = (field: number, value: string): Bytes => bytes(field, new TextEncoder().encode(value));
const message = (field: number, ...parts: readonly Uint8Array[]): Bytes => bytes(field, concat(parts));

export interface ValueInfo {
  readonly name: string;
  readonly dims: readonly number[];
  readonly integer?: boolean;
}

export interface Initializer {
  readonly name: string;
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

export interface OnnxNode {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Integers only. */
  readonly attributes?: Readonly<Record<string, number>>;
  readonly domain?: string;
}

export interface OnnxGraph {
  readonly nodes: readonly OnnxNode[];
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly initializers?: readonly Initializer[];
}

const INTEGER_ATTRIBUTE = 2;

function nodeProto({ type, inputs, outputs, attributes = {}, domain }: OnnxNode): Bytes {
  return concat([
    ...inputs.map((name) => text(1, name)),
    ...outputs.map((name) => text(2, name)),
    text(4, type),
    ...Object.entries(attributes).map(([name, value]) =>
      // A negative axis is a 64-bit varint; counted from the front it is none.
      message(5, text(1, name), number(3, value), number(20, INTEGER_ATTRIBUTE)),
    ),
    ...(domain === undefined ? [] : [text(7, domain)]),
  ]);
}

function valueProto({ name, dims, integer = false }: ValueInfo): Bytes {
  const shape = concat(dims.map((dim) => message(1, number(1, dim))));
  return concat([text(1, name), message(2, message(1, number(1, integer ? INT32 : FLOAT), bytes(2, shape)))]);
}

function tensorProto({ name, dims, data }: Initializer): Bytes {
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return concat([...dims.map((dim) => number(1, dim)), number(2, FLOAT), text(8, name), bytes(9, raw)]);
}

export function encodeModel({ nodes, inputs, outputs, initializers = [] }: OnnxGraph): Bytes {
  const graph = concat([
    ...nodes.map((node) => bytes(1, nodeProto(node))),
    text(2, 'attention'),
    ...initializers.map((tensor) => bytes(5, tensorProto(tensor))),
    ...inputs.map((value) => bytes(11, valueProto(value))),
    ...outputs.map((value) => bytes(12, valueProto(value))),
  ]);
  const opset = (domain: string, version: number) => message(8, text(1, domain), number(2, version));
  return concat([number(1, 8), bytes(7, graph), opset('', 17), opset('com.microsoft', 1)]);
}
