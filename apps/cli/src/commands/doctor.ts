/** `glinthawk doctor`: what this machine has, what will be used of it and why; with a model, whether its weights are sound. */
import { availableParallelism, cpus, totalmem } from 'node:os';
import { type AttentionKernelInfo, attentionKernelInfo } from '@glinthawk/attention';
import { type GpuAdapterReport, hardwareAdapter } from '@glinthawk/dense';
import { checkWeights, describeModel, openModel, type WeightCheck } from '@glinthawk/model';
import { EXIT } from '../failure.ts';
import { bytes, count, gigabytesPerSecond, millions, table } from '../format.ts';
import { type MemoryBandwidth, measureMemoryBandwidth } from '../memory-bandwidth.ts';
import { probeAdaptersApart } from '../probe-adapters.ts';
import type { Screen } from '../screen.ts';
import { defaultKvMemory } from '../tiers.ts';

export interface DoctorFlags {
  readonly model?: string;
  readonly json?: boolean;
}

/** Limits that decide what fits, in the order of their importance. */
const LIMITS = [
  'maxStorageBufferBindingSize',
  'maxBufferSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
] as const;
const FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix', 'timestamp-query'] as const;
/** Beyond it f16 is infinite. */
const F16_MAX = 65_504;

interface ModelReport {
  readonly name: string;
  readonly family: string;
  readonly parameters: number;
  readonly kvMemory: number;
  readonly kvTokens: number;
  readonly weights: readonly WeightCheck[];
  readonly bad: readonly WeightCheck[];
  readonly overF16: readonly WeightCheck[];
}

interface Report {
  readonly machine: Readonly<Record<string, string | number>>;
  readonly wasm: Readonly<Record<string, boolean | string>>;
  readonly adapters: readonly GpuAdapterReport[];
  readonly gpuUnavailable: string | null;
  readonly memoryBandwidth: readonly MemoryBandwidth[];
  readonly dense: { readonly kind: 'webgpu' | 'wasm'; readonly reason: string };
  readonly model: ModelReport | null;
}

export async function doctor(flags: DoctorFlags, screen: Screen, print: (text: string) => void): Promise<number> {
  screen.block(['measuring memory, looking for GPUs']);
  const report = await examine(flags.model);
  screen.clearBlock();
  print(flags.json ? JSON.stringify(report, null, 2) : describe(report));
  return (report.model?.bad.length ?? 0) > 0 ? EXIT.failed : EXIT.done;
}

async function examine(modelPath: string | undefined): Promise<Report> {
  const kernels = attentionKernelInfo();
  const memoryBandwidth = await measureMemoryBandwidth();
  const probe = await probeAdaptersApart();
  const hardware = hardwareAdapter(probe);
  const [software] = probe.adapters;
  const dense =
    hardware !== null
      ? { kind: 'webgpu' as const, reason: `${hardware.description} is a hardware adapter` }
      : {
          kind: 'wasm' as const,
          reason:
            software === undefined
              ? (probe.unavailable ?? 'there is no GPU adapter')
              : `${software.description} is software: correct, but slower than wasm`,
        };
  return {
    machine: {
      system: `${process.platform} ${process.arch}`,
      processor: cpus()[0]?.model.trim() ?? 'unknown',
      threads: availableParallelism(),
      memoryBytes: totalmem(),
      freeBytes: process.availableMemory(),
      node: process.versions.node,
      v8: process.versions.v8,
    },
    wasm: {
      simd: WebAssembly.validate(SIMD_PROBE),
      relaxedSimd: kernels.relaxedSimd,
      threads: kernels.sharedMemory,
      kernels: kernels.build,
      int8: kernels.int8,
      int8Reason: int8Reason(kernels),
    },
    adapters: probe.adapters,
    gpuUnavailable: probe.unavailable,
    memoryBandwidth,
    dense,
    model: modelPath === undefined ? null : await examineModel(modelPath, dense.kind),
  };
}

/** Why int8 KV is multiplied as it is. */
function int8Reason({ int8, relaxedSimd }: AttentionKernelInfo): string {
  switch (int8) {
    case 'dot':
      return '16 products an instruction: relaxed dots take unsigned bytes here, as with AVX-VNNI';
    case 'pairs':
      return relaxedSimd
        ? '8 products an instruction, of int16: relaxed dots take no unsigned bytes here, as without AVX-VNNI'
        : '8 products an instruction, of int16: dots of bytes need relaxed SIMD';
    default:
      return int8 satisfies never;
  }
}

/** (module (func (result v128) i32.const 0  i8x16.splat)) */
const SIMD_PROBE = Uint8Array.from([
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b],
  ...[0x03, 0x02, 0x01, 0x00, 0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x0b],
]);

async function examineModel(path: string, dense: 'webgpu' | 'wasm'): Promise<ModelReport> {
  const model = await openModel(path);
  try {
    const about = describeModel(model);
    const weights: WeightCheck[] = [];
    for await (const check of checkWeights(model)) weights.push(check);
    const kvMemory = defaultKvMemory(model, dense);
    return {
      name: model.name,
      family: about.family,
      parameters: about.parameters,
      kvMemory,
      kvTokens: Math.floor(kvMemory / about.kvBytesPerToken.f16),
      weights,
      bad: weights.filter(({ nan, infinite }) => nan + infinite > 0),
      overF16: weights.filter(({ maxAbs }) => maxAbs > F16_MAX),
    };
  } finally {
    await model.close();
  }
}

function describe(report: Report): string {
  const { machine, wasm, model } = report;
  const yesNo = (value: unknown) => (value ? 'yes' : 'no');
  const sections = [
    `Machine\n${table(
      [
        ['system', `${machine.system}, ${machine.processor}`],
        ['threads', String(machine.threads)],
        ['memory', `${bytes(Number(machine.memoryBytes))}, ${bytes(Number(machine.freeBytes))} free`],
        ...report.memoryBandwidth.map(({ threads, bytesPerSecond }): [string, string] => [
          threads === 1 ? 'reads' : '',
          `${gigabytesPerSecond(bytesPerSecond)} with ${threads} thread${threads === 1 ? '' : 's'}`,
        ]),
        ['Node', `${machine.node} (V8 ${machine.v8})`],
      ],
      '  ',
    )}`,
    `WebAssembly\n${table(
      [
        ['SIMD', yesNo(wasm.simd)],
        ['relaxed SIMD', yesNo(wasm.relaxedSimd)],
        ['threads', yesNo(wasm.threads)],
        [
          'kernels',
          wasm.relaxedSimd ? 'relaxed: multiply-add in one instruction' : 'plain: this Node has no relaxed SIMD',
        ],
        ['int8 KV', `${wasm.int8}: ${wasm.int8Reason}`],
      ],
      '  ',
    )}`,
    `GPU\n${describeGpus(report)}`,
    `Will be used\n${table(
      [
        ['dense', `${report.dense.kind}: ${report.dense.reason}`],
        [
          'attention',
          wasm.threads
            ? `local, ${machine.threads} workers, ${wasm.kernels} kernels`
            : `local, in one thread (no shared memory), ${wasm.kernels} kernels`,
        ],
      ],
      '  ',
    )}`,
  ];
  if (model !== null) sections.push(`Model\n${describeModelReport(model)}`);
  return sections.join('\n\n');
}

function describeGpus({ adapters, gpuUnavailable }: Report): string {
  if (adapters.length === 0) {
    return [
      `  none: ${gpuUnavailable ?? 'no adapter'}`,
      '  To use a GPU: its Vulkan driver on Linux (NVIDIA: the proprietary driver; AMD and Intel: mesa-vulkan-drivers),',
      '  Metal on macOS and Direct3D 12 on Windows come with the system.',
    ].join('\n');
  }
  return adapters
    .map((adapter) => {
      const limits = LIMITS.map((name): [string, string] => {
        const value = adapter.limits[name] ?? 0;
        return [name, name.endsWith('Size') ? bytes(value) : count(value)];
      });
      const features = FEATURES.filter((name) => adapter.features.includes(name));
      const kind = adapter.software ? 'software' : 'hardware';
      return [
        `  ${adapter.description} (${kind}; ${adapter.vendor}${adapter.architecture === '' ? '' : `, ${adapter.architecture}`})`,
        `    features: ${features.join(', ') || 'none of those that matter'}`,
        table(limits, '    '),
      ].join('\n');
    })
    .join('\n');
}

function describeModelReport(model: ModelReport): string {
  const elements = model.weights.reduce((sum, check) => sum + check.elements, 0);
  const name = ({ name: weight, nan, infinite, firstBad }: WeightCheck) =>
    `  BAD ${weight}: ${nan} NaN, ${infinite} infinite, the first at ${firstBad}`;
  const largest = Math.max(...model.weights.map(({ maxAbs }) => maxAbs));
  const lines = [
    `  ${model.name} (${model.family}, ${millions(model.parameters)} parameters)`,
    `  KV: ${bytes(model.kvMemory)} by default, ${count(model.kvTokens)} tokens in f16`,
    `  weights: ${count(model.weights.length)} tensors, ${count(elements)} values read, ` +
      (model.bad.length === 0
        ? `all finite, largest ${largest.toPrecision(3)}`
        : `${model.bad.length} tensors with NaN or infinity`),
    ...model.bad.map(name),
  ];
  if (model.overF16.length > 0) {
    const names = model.overF16.map(({ name: weight }) => weight).join(', ');
    lines.push(`  too large for f16, use --weights f32: ${names}`);
  }
  return lines.join('\n');
}
