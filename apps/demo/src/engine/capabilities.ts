/** What this browser has for the tiers, as plain data. Opens no device; run in the worker that will use it. */
import { attentionKernelInfo } from '@glinthawk/attention';
import { probeAdapters } from '@glinthawk/dense';
import type { Capabilities } from './protocol.ts';

export async function probeCapabilities(): Promise<Capabilities> {
  const { adapters, unavailable } = await probeAdapters();
  const { deviceMemory = null } = navigator as Navigator & { readonly deviceMemory?: number };
  return {
    crossOriginIsolated: globalThis.crossOriginIsolated,
    secureContext: globalThis.isSecureContext,
    cores: navigator.hardwareConcurrency,
    deviceMemoryGiB: deviceMemory,
    gpus: adapters.map(({ description, software, features, limits }) => ({
      name: description,
      software,
      features,
      limits,
    })),
    gpuUnavailable: unavailable,
    kernels: attentionKernelInfo(),
  };
}
