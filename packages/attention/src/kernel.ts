/**
 * The compiled kernels: which build this machine can run, and a running instance of it. The relaxed build does a multiply-add in one
 * instruction; the plain one runs wherever WebAssembly SIMD does.
 */
import { DeviceError } from '@glinthawk/core';
import { platform } from '#platform';
import type { KernelBuild, WasmName } from './platform.ts';

/**
 * (module (func (result v128)
 *   i32.const 0  i8x16.splat  i32.const 0  i8x16.splat  i32.const 0  i8x16.splat  f32x4.relaxed_madd))
 */
const RELAXED_PROBE = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00,
  0x0a, 0x13, 0x01, 0x11, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x85,
  0x02, 0x0b,
]);

/**
 * (module (func (export "p") (result i32)
 *   i32.const 127  i8x16.splat  i32.const -1  i8x16.splat  i32.const 0  i8x16.splat
 *   i32x4.relaxed_dot_i8x16_i7x16_add_s  i32x4.extract_lane 0))
 */
const DOT_PROBE = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7f, 0x03, 0x02, 0x01, 0x00,
  0x07, 0x05, 0x01, 0x01, 0x70, 0x00, 0x00, 0x0a, 0x17, 0x01, 0x15, 0x00, 0x41, 0xff, 0x00, 0xfd, 0x0f, 0x41, 0x7f,
  0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x93, 0x02, 0xfd, 0x1b, 0x00, 0x0b,
]);

/**
 * How int8 KV is multiplied. `dot`: by relaxed dots of bytes, 16 products an instruction, with q and softmax weights rounded to 8
 * bits. `pairs`: by dots of int16, in steps of two, with q and weights in 16 bits.
 */
export type Int8Kernel = 'dot' | 'pairs';

/**
 * WebAssembly leaves open how the second operand of a relaxed dot is read when its top bit is set. Only as an unsigned byte, and
 * without saturation between the products, do the kernels' sums come out right: AVX-VNNI does so (x86-64 since 2021), in one
 * instruction. Elsewhere it is several instructions and no faster than int16.
 */
function relaxedDotIsUnsigned(): boolean {
  if (!WebAssembly.validate(DOT_PROBE)) return false;
  const { p } = new WebAssembly.Instance(new WebAssembly.Module(DOT_PROBE)).exports;
  return typeof p === 'function' && p() === 4 * 127 * 255;
}

export interface AttentionKernelInfo {
  /** The build that is used unless another is asked for. */
  readonly build: KernelBuild;
  readonly relaxedSimd: boolean;
  /** How the build multiplies int8 KV. */
  readonly int8: Int8Kernel;
  /** Whether workers can be used; without, attention runs in the calling thread. */
  readonly sharedMemory: boolean;
}

export function attentionKernelInfo(): AttentionKernelInfo {
  const relaxedSimd = WebAssembly.validate(RELAXED_PROBE);
  const build = relaxedSimd ? 'relaxed' : 'plain';
  return { build, relaxedSimd, int8: int8Kernel(build), sharedMemory: platform.sharedMemory() };
}

let dotIsUnsigned: boolean | undefined;

/** What is used for int8 KV on this machine. */
export function int8Kernel(build: KernelBuild): Int8Kernel {
  if (build === 'plain') return 'pairs';
  dotIsUnsigned ??= relaxedDotIsUnsigned();
  return dotIsUnsigned ? 'dot' : 'pairs';
}

const compiled = new Map<WasmName, Promise<WebAssembly.Module>>();

/** Compiled once per process or page. @throws DeviceError when the module is missing or this machine can't run it */
export function loadKernel(build: KernelBuild, shared: boolean): Promise<WebAssembly.Module> {
  const name: WasmName = `attention-${build}${shared ? '-shared' : ''}`;
  let module = compiled.get(name);
  if (module === undefined) {
    module = compileKernel(name);
    compiled.set(name, module);
    module.catch(() => compiled.delete(name));
  }
  return module;
}

async function compileKernel(name: WasmName): Promise<WebAssembly.Module> {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = await platform.readWasm(name);
  } catch (cause) {
    throw new DeviceError('KERNEL_MISSING', `${name}.wasm can't be read`, { cause, hint: 'run: npm run build:wasm' });
  }
  try {
    return await WebAssembly.compile(bytes);
  } catch (cause) {
    throw new DeviceError('KERNEL_UNSUPPORTED', `${name}.wasm doesn't compile here: it needs WebAssembly SIMD`, {
      cause,
    });
  }
}

/** The low end of each memory: the module's own data, then a stack and scratch for each worker. instantiateKernel checks both. */
const STATIC_BYTES = 192 << 10;
const STACK_BYTES = 64 << 10;
const WORKER_BYTES = 1 << 20;

/** Where the host's part of a memory begins when so many workers run kernels on it; a multiple of 64 KiB. */
export function heapBase(workers: number): number {
  return STATIC_BYTES + WORKER_BYTES * workers;
}

export interface Kernel {
  /** Runs tasks of the Step at `step`, from firstTask to below endTask. Addresses in the memory. */
  attend(config: number, step: number, layer: number, firstTask: number, endTask: number): void;
  /** `count` rows of head vectors from f32 to a row dtype (an index of ROW_DTYPES), and back. */
  encode_rows(
    dtype: number,
    heads: number,
    headDim: number,
    from: number,
    to: number,
    bytes: number,
    count: number,
  ): void;
  decode_rows(
    dtype: number,
    heads: number,
    headDim: number,
    from: number,
    to: number,
    bytes: number,
    count: number,
  ): void;
  /** Reads `bytes` (a multiple of 256) in order; the result is of no interest. */
  read_memory(address: number, bytes: number): number;
}

/**
 * An instance for one worker: instances on the same memory share data, but no stack and no scratch.
 * @throws DeviceError when the module and this code don't belong together
 */
export function instantiateKernel(module: WebAssembly.Module, memory: WebAssembly.Memory, worker = 0): Kernel {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const { __heap_base: dataEnd, __stack_pointer: stackPointer, scratch_bytes: scratchBytes, ...functions } = exports;
  const { attend, encode_rows, decode_rows, read_memory } = functions;
  if (
    !(dataEnd instanceof WebAssembly.Global) ||
    !(stackPointer instanceof WebAssembly.Global) ||
    typeof scratchBytes !== 'function' ||
    typeof attend !== 'function' ||
    typeof encode_rows !== 'function' ||
    typeof decode_rows !== 'function' ||
    typeof read_memory !== 'function'
  ) {
    throw new DeviceError('KERNEL_MISMATCH', 'the attention kernels lack an export', {
      hint: 'run: npm run build:wasm',
    });
  }
  const scratch = STATIC_BYTES + WORKER_BYTES * worker + STACK_BYTES;
  const needed = STACK_BYTES + scratchBytes();
  if (dataEnd.value > STATIC_BYTES || needed > WORKER_BYTES) {
    throw new DeviceError(
      'KERNEL_MISMATCH',
      `the attention kernels' data ends at ${dataEnd.value} of ${STATIC_BYTES}, a worker needs ${needed} of ${WORKER_BYTES} bytes`,
    );
  }
  stackPointer.value = scratch; // it grows down
  return {
    attend: (config, step, layer, first, end) => attend(config, scratch, step, layer, first, end),
    encode_rows: encode_rows as Kernel['encode_rows'],
    decode_rows: decode_rows as Kernel['decode_rows'],
    read_memory: read_memory as Kernel['read_memory'],
  };
}
