export {
  type GpuAdapterReport,
  type GpuDevice,
  type GpuDeviceOptions,
  type GpuProbe,
  hardwareAdapter,
  openGpuDevice,
  probeAdapters,
} from './device.ts';
export type { WeightDtype } from './kernels.ts';
export { createWebGpuDense, type WebGpuDenseOptions } from './webgpu-dense.ts';
