/**
 * MatrixEngine by @tensorflow/tfjs-backend-wasm: its single-threaded SIMD build, one instance a worker, as its threaded one doesn't
 * start in Node (it makes workers from blob URLs) and columns split over workers do as well.
 *
 * tfjs multiplies by XNNPACK when nothing is transposed and the batch is 1 (tfjs-backend-wasm/src/cc/batch_mat_mul_impl.cc). The first
 * product with a matrix packs it into an operator, which is kept under the tensor's id and never reads the tensor again. So the
 * tensors here all stand over one staging area, and a matrix is held once, not twice. The kernel is called directly: tf.matMul's
 * tape, reshapes and scopes cost more than a small product.
 */
import { CapacityError, DeviceError } from '@glinthawk/core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { backend, enableProdMode, env, getKernel, ready, setBackend } from '@tensorflow/tfjs-core';
import type { MatrixEngine, WeightMatrix } from './matrix-engine.ts';

/** Output columns that XNNPACK packs together; the last group is padded. */
const PACKED_COLUMNS = 8;
/** Where a 32-bit WebAssembly memory ends. */
export const HEAP_LIMIT_BYTES = 4 * 1024 ** 3;
/** Error of an f32 sum, of the sum of magnitudes: far above rounding, far below what stale memory would show. */
const SUM_TOLERANCE = 1e-2;

interface TfjsMatrix extends WeightMatrix {
  readonly weights: TensorInfo; // [1, inputs, outputs], of which only the id matters
  readonly bias: TensorInfo | undefined;
}

/** The part of tfjs's Emscripten module that is used; its own types leave it out. */
interface Heap {
  readonly HEAPU8: Uint8Array<ArrayBuffer>;
  _malloc(bytes: number): number;
  _free(address: number): void;
}

/** Bytes that XNNPACK's packed form of a matrix takes, bias included. */
export function packedBytes(inputs: number, outputs: number): number {
  return (inputs + 1) * Math.ceil(outputs / PACKED_COLUMNS) * PACKED_COLUMNS * 4;
}

/**
 * @param wasmUrl of tfjs-backend-wasm-simd.wasm, where the library doesn't find it by itself (bundlers)
 * @throws DeviceError when it can't be loaded
 */
export async function createTfjsEngine(wasmUrl: string | null): Promise<MatrixEngine> {
  enableProdMode();
  env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
  if (wasmUrl !== null) {
    // A map must name all three builds, though only one is loaded.
    setWasmPaths({
      'tfjs-backend-wasm.wasm': wasmUrl,
      'tfjs-backend-wasm-simd.wasm': wasmUrl,
      'tfjs-backend-wasm-threaded-simd.wasm': wasmUrl,
    });
  }
  if (!(await env().getAsync('WASM_HAS_SIMD_SUPPORT'))) {
    throw new DeviceError(
      'WASM_SIMD_MISSING',
      'the wasm dense backend needs WebAssembly SIMD, which this runtime lacks',
    );
  }
  try {
    if (!(await setBackend('wasm'))) throw new Error('setBackend answered false');
    await ready();
  } catch (cause) {
    throw new DeviceError('TFJS_UNAVAILABLE', 'the WASM backend of TensorFlow.js does not start', { cause });
  }
  return new TfjsEngine(backend() as BackendWasm);
}

class TfjsEngine implements MatrixEngine {
  readonly description = 'tfjs-wasm SIMD';
  readonly #backend: BackendWasm;
  readonly #heap: Heap;
  readonly #kernel: KernelConfig;
  #staging: { readonly address: number; readonly floats: number };
  #input: { readonly tensor: TensorInfo; readonly address: number; readonly floats: number };
  #output: TensorInfo | null = null;

  constructor(wasm: BackendWasm) {
    const kernel = getKernel('_FusedMatMul', 'wasm');
    if (kernel === undefined) throw new DeviceError('TFJS_UNAVAILABLE', 'tfjs-backend-wasm has no matMul kernel');
    this.#backend = wasm;
    this.#heap = wasm.wasm as unknown as Heap;
    this.#kernel = kernel;
    this.#staging = { address: this.#allocate(1), floats: 1 };
    this.#input = this.#newInput(1);
  }

  addMatrix(weights: Float32Array, inputs: number, outputs: number, bias: Float32Array | null): WeightMatrix {
    const floats = inputs * outputs;
    if (weights.length !== floats) {
      throw new RangeError(`a matrix [${outputs}, ${inputs}] was given ${weights.length} numbers`);
    }
    this.reserve(inputs, outputs);
    this.#stage(floats + outputs);
    const { address } = this.#staging;
    transpose(weights, outputs, inputs, this.#view(address, floats));
    const matrix: TfjsMatrix = {
      inputs,
      outputs,
      weights: this.#backend.makeOutput([1, inputs, outputs], 'float32', address),
      bias: bias === null ? undefined : this.#backend.makeOutput([outputs], 'float32', address + floats * 4),
    };
    if (bias !== null) this.#view(address + floats * 4, outputs).set(bias);
    this.#pack(matrix, weights, bias);
    return matrix;
  }

  reserve(inputFloats: number, outputFloats: number): void {
    if (inputFloats > this.#input.floats) {
      const input = this.#newInput(inputFloats);
      this.#backend.disposeData(this.#input.tensor.dataId);
      this.#input = input;
    }
    this.#dropOutput();
    this.#heap._free(this.#allocate(outputFloats));
  }

  input(floats: number): Float32Array {
    if (floats > this.#input.floats) throw new RangeError(`${floats} floats of input, ${this.#input.floats} reserved`);
    return this.#view(this.#input.address, floats);
  }

  multiply(matrix: WeightMatrix, rows: number): Float32Array {
    const { inputs, outputs, weights, bias } = matrix as TfjsMatrix;
    this.#dropOutput();
    const a = { dataId: this.#input.tensor.dataId, shape: [1, rows, inputs], dtype: 'float32' as const };
    const output = this.#kernel.kernelFunc({
      inputs: bias === undefined ? { a, b: weights } : { a, b: weights, bias },
      backend: this.#backend,
      attrs: { transposeA: false, transposeB: false, activation: 'linear' },
    }) as TensorInfo;
    this.#output = output;
    return this.#view(this.#backend.getMemoryOffset(output.dataId), rows * outputs);
  }

  heapBytes(): number {
    return this.#heap.HEAPU8.length;
  }

  liveTensors(): number {
    return this.#backend.numDataIds();
  }

  /** The first product packs. XNNPACK out of memory only warns and leaves the output as it was, so a column is checked. */
  #pack(matrix: TfjsMatrix, weights: Float32Array, bias: Float32Array | null): void {
    const { inputs, outputs } = matrix;
    this.input(inputs).fill(1);
    const last = this.multiply(matrix, 1)[outputs - 1] as number;
    this.#dropOutput();
    let expected = bias === null ? 0 : (bias[outputs - 1] as number);
    let magnitude = Math.abs(expected);
    for (let i = (outputs - 1) * inputs; i < outputs * inputs; i++) {
      expected += weights[i] as number;
      magnitude += Math.abs(weights[i] as number);
    }
    if (Number.isFinite(magnitude) && !(Math.abs(last - expected) <= SUM_TOLERANCE * magnitude)) {
      throw outOfMemory(packedBytes(inputs, outputs), this.heapBytes());
    }
  }

  /** Room for a matrix and its bias on their way into an operator. */
  #stage(floats: number): void {
    if (floats <= this.#staging.floats) return;
    this.#heap._free(this.#staging.address);
    this.#staging = { address: 0, floats: 0 };
    this.#staging = { address: this.#allocate(floats), floats };
  }

  #newInput(floats: number) {
    const address = this.#allocate(floats);
    return { tensor: this.#backend.makeOutput([floats], 'float32', address), address, floats };
  }

  #dropOutput(): void {
    if (this.#output === null) return;
    this.#backend.disposeData(this.#output.dataId);
    this.#output = null;
  }

  #allocate(floats: number): number {
    // malloc takes its argument modulo 2^32.
    const address = floats * 4 >= HEAP_LIMIT_BYTES ? 0 : this.#heap._malloc(floats * 4) >>> 0;
    if (address === 0) throw outOfMemory(floats * 4, this.heapBytes());
    return address;
  }

  /** Made anew each time: growth of the memory detaches older views. */
  #view(address: number, floats: number): Float32Array {
    return new Float32Array(this.#heap.HEAPU8.buffer, address, floats);
  }
}

function outOfMemory(needed: number, held: number): CapacityError {
  return new CapacityError(
    'WASM_MEMORY',
    `${needed} bytes more do not fit in a worker's WebAssembly memory, which holds ${held} bytes (at most 4 GiB)`,
    { hint: 'use more workers, smaller micro-batches, or a model with fewer parameters' },
  );
}

/** [rows, columns] → [columns, rows], in blocks that stay in cache. */
function transpose(source: Float32Array, rows: number, columns: number, target: Float32Array): void {
  const block = 32;
  for (let row0 = 0; row0 < rows; row0 += block) {
    const rowEnd = Math.min(rows, row0 + block);
    for (let column0 = 0; column0 < columns; column0 += block) {
      const columnEnd = Math.min(columns, column0 + block);
      for (let column = column0; column < columnEnd; column++) {
        const targetAt = column * rows;
        for (let row = row0; row < rowEnd; row++) target[targetAt + row] = source[row * columns + column] as number;
      }
    }
  }
}
