/** Writes GGUF files for tests (ggml's docs/gguf.md). */

export type MetadataEntry =
  | { readonly type: 'u32' | 'i32' | 'f32' | 'u64' | 'u8' | 'f64'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'i32s' | 'f32s'; readonly value: readonly number[] };

export interface GgufTensorToWrite {
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly kind: number;
  readonly bytes: Uint8Array;
}

const TYPE_NUMBERS = { u8: 0, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, u64: 10, f64: 12 } as const;

export function writeGguf(
  metadata: ReadonlyMap<string, MetadataEntry>,
  tensors: ReadonlyMap<string, GgufTensorToWrite>,
  options: { readonly version?: number; readonly alignment?: number } = {},
): Uint8Array<ArrayBuffer> {
  const alignment = options.alignment ?? 32;
  const out = new Writer();
  out.u32(0x46554747);
  out.u32(options.version ?? 3);
  out.u64(tensors.size);
  out.u64(metadata.size);
  for (const [key, entry] of metadata) {
    out.string(key);
    writeEntry(out, entry);
  }
  let offset = 0;
  const offsets: number[] = [];
  for (const [name, { shape, kind, bytes }] of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const length of shape.toReversed()) out.u64(length);
    out.u32(kind);
    out.u64(offset);
    offsets.push(offset);
    offset = Math.ceil((offset + bytes.length) / alignment) * alignment;
  }
  out.pad(alignment);
  const dataStart = out.length;
  for (const [i, { bytes }] of [...tensors.values()].entries()) {
    out.pad(alignment);
    if (out.length !== dataStart + (offsets[i] ?? 0)) throw new Error('offsets went astray');
    out.bytes(bytes);
  }
  return out.done();
}

function writeEntry(out: Writer, entry: MetadataEntry): void {
  switch (entry.type) {
    case 'strings':
      out.u32(9);
      out.u32(TYPE_NUMBERS.string);
      out.u64(entry.value.length);
      for (const text of entry.value) out.string(text);
      return;
    case 'i32s':
    case 'f32s':
      out.u32(9);
      out.u32(entry.type === 'i32s' ? TYPE_NUMBERS.i32 : TYPE_NUMBERS.f32);
      out.u64(entry.value.length);
      out.bytes(new Uint8Array((entry.type === 'i32s' ? Int32Array : Float32Array).from(entry.value).buffer));
      return;
    default:
      out.u32(TYPE_NUMBERS[entry.type]);
      writeScalar(out, entry);
  }
}

type ScalarEntry = Exclude<MetadataEntry, { readonly type: 'strings' | 'i32s' | 'f32s' }>;

function writeScalar(out: Writer, entry: ScalarEntry): void {
  if (entry.type === 'string') out.string(entry.value);
  else out.bytes(scalarBytes(entry));
}

function scalarBytes(entry: Exclude<ScalarEntry, { readonly type: 'string' }>): Uint8Array {
  switch (entry.type) {
    case 'bool':
      return Uint8Array.of(entry.value ? 1 : 0);
    case 'u8':
      return Uint8Array.of(entry.value);
    case 'u32':
      return new Uint8Array(Uint32Array.of(entry.value).buffer);
    case 'i32':
      return new Uint8Array(Int32Array.of(entry.value).buffer);
    case 'f32':
      return new Uint8Array(Float32Array.of(entry.value).buffer);
    case 'f64':
      return new Uint8Array(Float64Array.of(entry.value).buffer);
    case 'u64':
      return new Uint8Array(BigUint64Array.of(BigInt(entry.value)).buffer);
    default:
      return entry satisfies never;
  }
}

class Writer {
  readonly #parts: Uint8Array[] = [];
  length = 0;

  bytes(part: Uint8Array): void {
    this.#parts.push(part);
    this.length += part.length;
  }

  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): void {
    this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  string(text: string): void {
    const encoded = new TextEncoder().encode(text);
    this.u64(encoded.length);
    this.bytes(encoded);
  }

  pad(alignment: number): void {
    this.bytes(new Uint8Array((alignment - (this.length % alignment)) % alignment));
  }

  done(): Uint8Array<ArrayBuffer> {
    const file = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.#parts) {
      file.set(part, at);
      at += part.length;
    }
    return file;
  }
}
