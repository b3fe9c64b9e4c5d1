/** Writes safetensors files for tests, good ones and, by `header`, deliberately bad ones. */

export interface WrittenTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export function f32Tensor(shape: readonly number[], values: ArrayLike<number>): WrittenTensor {
  return { dtype: 'F32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}

/** The header of `tensors`, laid end to end. */
export function safetensorsHeader(tensors: ReadonlyMap<string, WrittenTensor>): Record<string, unknown> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let at = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  return header;
}

/** `header` replaces the true one: an object, or the text itself. */
export function writeSafetensors(
  tensors: ReadonlyMap<string, WrittenTensor>,
  header: Record<string, unknown> | string = safetensorsHeader(tensors),
): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const dataBytes = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  let at = 8 + text.length;
  for (const { bytes } of tensors.values()) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}
