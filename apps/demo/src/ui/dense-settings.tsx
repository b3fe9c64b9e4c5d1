/** The dense tier's place: WebGPU with a verdict in plain words, or WASM. */
import type { Capabilities, GpuVerdict, TierSettings } from '../engine/protocol.ts';
import { formatBytes, plural } from '../state/format.ts';
import { Segments, SelectField } from './field.tsx';

export function DenseSettings(props: {
  readonly settings: TierSettings;
  readonly capabilities: Capabilities | null;
  readonly change: (part: Partial<TierSettings>) => void;
}) {
  const { settings, capabilities, change } = props;
  return (
    <div class="side dense">
      <h3>Dense</h3>
      <Segments
        legend="Runs on"
        value={settings.dense}
        choices={[
          { value: 'wasm', label: 'WASM' },
          { value: 'webgpu', label: 'WebGPU' },
        ]}
        onChange={(dense) => change({ dense })}
      />
      {settings.dense === 'webgpu' ? (
        <>
          <GpuWords capabilities={capabilities} settings={settings} change={change} />
          <SelectField
            label="Weights"
            value={settings.weightDtype}
            choices={[
              { value: 'auto', label: 'auto (f16 where the GPU has it)' },
              { value: 'f16', label: 'f16' },
              { value: 'f32', label: 'f32' },
            ]}
            onChange={(weightDtype) => change({ weightDtype })}
          />
        </>
      ) : (
        <p class="note">{capabilities === null ? 'Looking at this browser…' : wasmWords(capabilities)}</p>
      )}
    </div>
  );
}

function wasmWords({ kernels, cores }: Capabilities): string {
  const how = kernels.relaxedSimd ? 'SIMD with fused multiply-add' : 'SIMD';
  return `${plural(cores, 'core')}, ${how}, 32-bit weights. Works everywhere.`;
}

function GpuWords(props: {
  readonly capabilities: Capabilities | null;
  readonly settings: TierSettings;
  readonly change: (part: Partial<TierSettings>) => void;
}) {
  const { capabilities, settings, change } = props;
  if (capabilities === null) return <p class="note">Looking for a GPU…</p>;
  if (capabilities.gpuUnavailable !== null)
    return (
      <p class="note is-warn">
        No WebGPU: {capabilities.gpuUnavailable}{' '}
        {capabilities.secureContext
          ? 'Take WASM, or a browser with WebGPU switched on (Chrome, Edge, Safari 26, Firefox 141 and newer).'
          : 'WebGPU needs https:// or localhost.'}
      </p>
    );
  const allSoftware = capabilities.gpus.every(({ software }) => software);
  return (
    <>
      {capabilities.gpus.map((gpu) => (
        <Gpu key={gpu.name} gpu={gpu} />
      ))}
      {allSoftware && (
        <label class="check">
          <input
            type="checkbox"
            checked={settings.allowSoftwareGpu}
            onChange={({ currentTarget }) => change({ allowSoftwareGpu: currentTarget.checked })}
          />
          Use the software adapter: right answers, but slower than WASM
        </label>
      )}
    </>
  );
}

/** Features that change what the dense tier does, and what they do. */
const FEATURE_WORDS: readonly (readonly [string, string, string])[] = [
  ['shader-f16', '16-bit weights', 'no 16-bit arithmetic: weights stay 32-bit'],
  ['subgroups', 'fast sums', 'no subgroups: sums go through workgroup memory'],
  ['timestamp-query', 'GPU timing', 'no GPU timing'],
];

function Gpu({ gpu }: { readonly gpu: GpuVerdict }) {
  const words = FEATURE_WORDS.map(([feature, has, lacks]) => (gpu.features.includes(feature) ? has : lacks));
  const binding = gpu.limits.maxStorageBufferBindingSize;
  return (
    <p class="note">
      <strong>{gpu.name}</strong>
      {gpu.software ? ' (software, on the CPU)' : ''}: {words.join(', ')}
      {binding === undefined ? '' : `, one weight matrix up to ${formatBytes(binding)}`}.
    </p>
  );
}
