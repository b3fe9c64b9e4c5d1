/**
 * Rows of head vectors between f32 and the dtype in which they travel (core's rows.ts), by the kernels: synchronous once it is
 * created, with a small memory of its own through which rows go in pieces that a cache holds. The kernels of a node convert rows where
 * they are staged; this is for the other end, whose rows are f32 of anywhere.
 */
import { InputError, ROW_DTYPES, type RowDtype, rowBytes } from '@glinthawk/core';
import { attentionKernelInfo, heapBase, instantiateKernel, type Kernel, loadKernel } from './kernel.ts';
import type { KernelBuild } from './platform.ts';

const WASM_PAGE = 65536;
const PIECE_BYTES = 128 << 10;

interface Piece {
  readonly kernel: Kernel;
  readonly memory: WebAssembly.Memory;
  /** Addresses. */
  readonly floats: number;
  readonly encoded: number;
  readonly rows: number;
}

export class RowCodec {
  readonly dtype: RowDtype;
  readonly heads: number;
  readonly headDim: number;
  /** Of one row as it travels. */
  readonly rowBytes: number;
  /** null for f32, which is copied, and once closed. */
  #piece: Piece | null;

  /** @throws InputError, DeviceError */
  static async create(
    dtype: RowDtype,
    heads: number,
    headDim: number,
    build: KernelBuild = attentionKernelInfo().build,
  ): Promise<RowCodec> {
    if (dtype === 'f32') return new RowCodec(dtype, heads, headDim, null);
    const module = await loadKernel(build, false);
    const floats = heapBase(1);
    const rowFloatBytes = 4 * heads * headDim;
    const rows = Math.max(1, Math.floor(PIECE_BYTES / rowFloatBytes));
    const encoded = floats + rows * rowFloatBytes;
    // The kernels read vectors whole: up to 16 bytes beyond the end.
    const end = encoded + rows * rowBytes(dtype, heads, headDim) + 16;
    const pages = Math.ceil(end / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const kernel = instantiateKernel(module, memory);
    return new RowCodec(dtype, heads, headDim, { kernel, memory, floats, encoded, rows });
  }

  private constructor(dtype: RowDtype, heads: number, headDim: number, piece: Piece | null) {
    this.dtype = dtype;
    this.heads = heads;
    this.headDim = headDim;
    this.rowBytes = rowBytes(dtype, heads, headDim);
    this.#piece = piece;
  }

  /** @param floats [rows, heads, headDim] @param target [rows, rowBytes] @throws InputError when one is too short */
  encode(floats: Float32Array, rows: number, target: Uint8Array): void {
    const width = this.heads * this.headDim;
    this.#require(floats, rows, target);
    if (this.#piece === null) {
      target.set(new Uint8Array(floats.buffer, floats.byteOffset, 4 * rows * width));
      return;
    }
    const { kernel, memory, floats: from, encoded: to, rows: most } = this.#piece;
    for (let row = 0; row < rows; row += most) {
      const count = Math.min(most, rows - row);
      new Float32Array(memory.buffer, from).set(floats.subarray(row * width, (row + count) * width));
      kernel.encode_rows(ROW_DTYPES.indexOf(this.dtype), this.heads, this.headDim, from, to, this.rowBytes, count);
      target.set(new Uint8Array(memory.buffer, to, count * this.rowBytes), row * this.rowBytes);
    }
  }

  /** @param bytes [rows, rowBytes] @param target [rows, heads, headDim] @throws InputError when one is too short */
  decode(bytes: Uint8Array, rows: number, target: Float32Array): void {
    const width = this.heads * this.headDim;
    this.#require(target, rows, bytes);
    if (this.#piece === null) {
      new Uint8Array(target.buffer, target.byteOffset).set(bytes.subarray(0, rows * this.rowBytes));
      return;
    }
    const { kernel, memory, floats: to, encoded: from, rows: most } = this.#piece;
    for (let row = 0; row < rows; row += most) {
      const count = Math.min(most, rows - row);
      const own = bytes.subarray(row * this.rowBytes, (row + count) * this.rowBytes);
      new Uint8Array(memory.buffer, from).set(own);
      kernel.decode_rows(ROW_DTYPES.indexOf(this.dtype), this.heads, this.headDim, from, to, this.rowBytes, count);
      target.set(new Float32Array(memory.buffer, to, count * width), row * width);
    }
  }

  /** Its memory is given up; it converts nothing any more. */
  close(): void {
    this.#piece = null;
  }

  #require(floats: Float32Array, rows: number, bytes: Uint8Array): void {
    if (this.#piece === null && this.dtype !== 'f32') throw new InputError('ROW_CODEC', 'the codec is closed');
    const [needFloats, needBytes] = [rows * this.heads * this.headDim, rows * this.rowBytes];
    if (floats.length >= needFloats && bytes.length >= needBytes) return;
    throw new InputError(
      'ROW_CODEC',
      `${rows} rows are ${needFloats} floats and ${needBytes} bytes, found ${floats.length} and ${bytes.length}`,
    );
  }
}
