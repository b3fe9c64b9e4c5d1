/**
 * GPU adapters and devices: what there is (as plain data, for `glinthawk doctor` and for choosing a backend), and opening one.
 * A software adapter is correct but slower than the wasm backend, so it must be asked for.
 */

import { DeviceError, toError } from '@glinthawk/core';
import { platformGpu } from '#dense-gpu';

export interface GpuAdapterReport {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  /** Made of CPU threads: lavapipe, SwiftShader, WARP. */
  readonly software: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

export interface GpuProbe {
  readonly adapters: readonly GpuAdapterReport[];
  /** Why there are none, in words; null when there is one. */
  readonly unavailable: string | null;
}

export interface GpuDeviceOptions {
  /** Whether an adapter made of CPU threads will do. */
  readonly allowSoftware: boolean;
  /** In Node, a part of the adapter's name, where there are several; $GLINTHAWK_ADAPTER by default. */
  readonly adapter?: string;
  /** Use the smallest limits and no optional feature, as the weakest adapter would: for tests. */
  readonly baseline?: boolean;
}

export interface GpuDevice {
  readonly device: GPUDevice;
  readonly adapter: GpuAdapterReport;
  /**
   * Resolves once when the device is lost or reports an error that no call was there to receive, either of which means that
   * its results can't be trusted; not on close(). Never rejects.
   */
  readonly failed: Promise<DeviceError>;
  close(): void;
}

/** Dawn in Node dies when an adapter is collected while its device lives: adapters of open devices are held here. */
const adaptersInUse = new Set<GPUAdapter>();

function report(adapter: GPUAdapter): GpuAdapterReport {
  const { info } = adapter;
  const limits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === 'number') limits[name] = value;
  }
  // Where `isFallbackAdapter` isn't told truly (older Dawn, drivers reached through Vulkan), the name tells.
  const names = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  const software =
    info.isFallbackAdapter === true || /llvmpipe|lavapipe|swiftshader|software|basic render/i.test(names);
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    device: info.device,
    description: info.description || info.device || info.architecture || info.vendor || 'unnamed adapter',
    software,
    features: [...adapter.features].sort(),
    limits,
  };
}

/** The adapters that this platform offers, hardware first. Opens no device and never throws. */
export async function probeAdapters(adapter?: string): Promise<GpuProbe> {
  try {
    const gpu = await platformGpu(adapter);
    const found = new Map<string, GpuAdapterReport>();
    const requests: readonly GPURequestAdapterOptions[] = [
      { powerPreference: 'high-performance' },
      { powerPreference: 'low-power' },
      { forceFallbackAdapter: true },
    ];
    for (const request of requests) {
      const offered = await gpu.requestAdapter(request);
      if (!offered) continue;
      const described = report(offered);
      found.set([described.vendor, described.architecture, described.description].join('|'), described);
    }
    const adapters = [...found.values()].sort((a, b) => Number(a.software) - Number(b.software));
    return { adapters, unavailable: adapters.length > 0 ? null : 'WebGPU is there, but offers no adapter' };
  } catch (thrown) {
    return { adapters: [], unavailable: toError(thrown).message };
  }
}

/** The adapter that `--dense auto` would use: a hardware one, or none. */
export function hardwareAdapter(probe: GpuProbe): GpuAdapterReport | null {
  return probe.adapters.find(({ software }) => !software) ?? null;
}

/** @throws DeviceError when there is no adapter, or only a software one and that isn't allowed. */
export async function openGpuDevice(options: GpuDeviceOptions): Promise<GpuDevice> {
  const gpu = await platformGpu(options.adapter);
  const offered = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  const adapter = offered ?? (options.allowSoftware ? await gpu.requestAdapter({ forceFallbackAdapter: true }) : null);
  if (!adapter) {
    throw new DeviceError('NO_ADAPTER', 'WebGPU offers no adapter on this machine', {
      hint: 'Install a GPU driver (on Linux: Vulkan), or use --dense wasm. `glinthawk doctor` shows what is found.',
    });
  }
  const described = report(adapter);
  if (described.software && !options.allowSoftware) {
    throw new DeviceError('SOFTWARE_ADAPTER', `the only WebGPU adapter is software: ${described.description}`, {
      hint: 'Use --dense wasm, which is faster than a software adapter, or ask for the software adapter expressly.',
    });
  }
  const device = await requestDevice(adapter, described, options.baseline ?? false);
  adaptersInUse.add(adapter);
  let closed = false;
  const failed = new Promise<DeviceError>((resolve) => {
    device.lost.then(({ reason, message }) => {
      adaptersInUse.delete(adapter);
      if (closed) return;
      resolve(
        new DeviceError('DEVICE_LOST', `the GPU device ${described.description} was lost (${reason}): ${message}`),
      );
    });
    device.addEventListener('uncapturederror', (event) => {
      event.preventDefault();
      resolve(new DeviceError('GPU_ERROR', `${described.description}: ${event.error.message}`));
    });
  });
  return {
    device,
    adapter: described,
    failed,
    close: () => {
      closed = true;
      device.destroy();
    },
  };
}

async function requestDevice(adapter: GPUAdapter, described: GpuAdapterReport, baseline: boolean): Promise<GPUDevice> {
  const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits;
  const wanted: readonly GPUFeatureName[] = ['shader-f16', 'timestamp-query'];
  const descriptor: GPUDeviceDescriptor = baseline
    ? { label: 'glinthawk' }
    : {
        label: 'glinthawk',
        requiredFeatures: wanted.filter((feature) => adapter.features.has(feature)),
        requiredLimits: { maxStorageBufferBindingSize, maxBufferSize },
      };
  try {
    return await adapter.requestDevice(descriptor);
  } catch (cause) {
    throw new DeviceError(
      'NO_DEVICE',
      `the adapter ${described.description} gave no device: ${toError(cause).message}`,
      {
        cause,
      },
    );
  }
}
