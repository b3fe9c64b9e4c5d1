/**
 * Weight matrices on the GPU: rows padded with zeros to octets of inputs, in f32 or f16, split by rows over as many buffers as
 * the largest binding asks for. They are streamed: at no time is more than a slice of a tensor in host memory.
 */
import { CapacityError, f32ArrayToF16, type WeightName, type WeightSource } from '@glinthawk/core';
import { BUFFER_USAGE, checkedSetup, type GpuMemory } from './gpu-memory.ts';
import type { WeightDtype } from './kernels.ts';

export interface MatrixPart {
  readonly buffer: GPUBuffer; // [rows, 8 octets]
  readonly firstRow: number;
  readonly rows: number;
}

export interface GpuMatrix {
  readonly outputs: number;
  readonly inputs: number;
  /** Inputs / 8, rounded up. */
  readonly octets: number;
  readonly dtype: WeightDtype;
  /** In order of rows, covering all of them. */
  readonly parts: readonly MatrixPart[];
}

export const octetsOf = (elements: number) => Math.ceil(elements / 8);
/** Elements from one row to the next in every buffer that a matmul reads. */
export const paddedTo8 = (elements: number) => octetsOf(elements) * 8;

/** f32 bytes of a tensor that are read at a time, and bytes that may wait for the GPU before loading does. */
const SLICE_BYTES = 4 << 20;
const UNSENT_BYTES = 64 << 20;
/** The rows kernel covers 16 outputs a workgroup, and a dispatch has at most 65,535 workgroups in a dimension. */
const MAX_PART_ROWS = 65_535 * 16;

export class WeightUploader {
  readonly #device: GPUDevice;
  readonly #memory: GpuMemory;
  readonly #source: WeightSource;
  readonly #maxBindingBytes: number;
  #unsentBytes = 0;

  constructor(device: GPUDevice, memory: GpuMemory, source: WeightSource, maxBindingBytes: number) {
    this.#device = device;
    this.#memory = memory;
    this.#source = source;
    this.#maxBindingBytes = maxBindingBytes;
  }

  /** Several matrices with the same inputs as one, stacked in the order of their names. */
  async matrix(names: readonly WeightName[], inputs: number, dtype: WeightDtype): Promise<GpuMatrix> {
    const stride = paddedTo8(inputs);
    const rowBytes = stride * (dtype === 'f16' ? 2 : 4);
    const maxPartRows = Math.min(Math.floor(this.#maxBindingBytes / rowBytes), MAX_PART_ROWS);
    if (maxPartRows < 1) {
      throw new CapacityError(
        'GPU_BINDING',
        `a row of ${names.join(', ')} is ${rowBytes} bytes; this GPU binds at most ${this.#maxBindingBytes}`,
      );
    }
    const sources = names.map((name) => ({ name, rows: this.#source.info(name).shape[0] ?? 0 }));
    const outputs = sources.reduce((sum, { rows }) => sum + rows, 0);
    const parts = await checkedSetup(this.#device, () => {
      const made: MatrixPart[] = [];
      for (let firstRow = 0; firstRow < outputs; firstRow += maxPartRows) {
        const rows = Math.min(maxPartRows, outputs - firstRow);
        const usage = BUFFER_USAGE.storage | BUFFER_USAGE.copyDst;
        made.push({
          buffer: this.#memory.create(`${names.join('|')}[${firstRow}…]`, rows * rowBytes, usage),
          firstRow,
          rows,
        });
      }
      return made;
    });
    const sliceRows = Math.max(1, Math.floor(SLICE_BYTES / (stride * 4)));
    let firstRow = 0; // of the source in the stack
    for (const { name, rows } of sources) {
      for (const part of parts) {
        const start = Math.max(part.firstRow, firstRow);
        const end = Math.min(part.firstRow + part.rows, firstRow + rows);
        for (let at = start; at < end; at += sliceRows) {
          const until = Math.min(at + sliceRows, end);
          const slice = await this.#source.read(name, { start: at - firstRow, end: until - firstRow });
          const bytes = encodeRows(slice, inputs, stride, dtype);
          this.#device.queue.writeBuffer(part.buffer, (at - part.firstRow) * rowBytes, bytes);
          await this.#pace(bytes.byteLength);
        }
      }
      firstRow += rows;
    }
    return { outputs, inputs, octets: octetsOf(inputs), dtype, parts };
  }

  /** Vectors end to end in f32; a number in place of a name is that many zeros. */
  async vector(pieces: readonly (WeightName | number)[]): Promise<GPUBuffer> {
    const arrays: Float32Array[] = [];
    for (const piece of pieces) {
      arrays.push(typeof piece === 'number' ? new Float32Array(piece) : await this.#source.read(piece));
    }
    const elements = arrays.reduce((sum, { length }) => sum + length, 0);
    const buffer = await checkedSetup(this.#device, () =>
      this.#memory.create(pieces.join('|'), elements * 4, BUFFER_USAGE.storage | BUFFER_USAGE.copyDst),
    );
    let at = 0;
    for (const array of arrays) {
      this.#device.queue.writeBuffer(buffer, at * 4, bytesOf(array));
      at += array.length;
    }
    return buffer;
  }

  /** Waits now and then, so that the driver's copies of what was written don't pile up. */
  async #pace(bytes: number): Promise<void> {
    this.#unsentBytes += bytes;
    if (this.#unsentBytes < UNSENT_BYTES) return;
    this.#unsentBytes = 0;
    this.#device.queue.submit([]);
    await this.#device.queue.onSubmittedWorkDone();
  }
}

// Dawn in Node takes no Float16Array (it dies of SIGFPE); bytes suit every platform.
function bytesOf(array: Float32Array | Uint16Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
}

function encodeRows(rows: Float32Array, inputs: number, stride: number, dtype: WeightDtype): Uint8Array<ArrayBuffer> {
  let padded = rows;
  if (stride !== inputs) {
    const count = rows.length / inputs;
    padded = new Float32Array(count * stride);
    for (let row = 0; row < count; row++) padded.set(rows.subarray(row * inputs, (row + 1) * inputs), row * stride);
  }
  if (dtype === 'f32') return bytesOf(padded);
  const half = new Uint16Array(padded.length);
  f32ArrayToF16(padded, half);
  return bytesOf(half);
}
