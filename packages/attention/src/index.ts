export * from './backend.ts';
export { createInlineAttention, type InlineAttentionOptions } from './inline.ts';
export { type AttentionKernelInfo, attentionKernelInfo, type Int8Kernel } from './kernel.ts';
export * from './kv-blocks.ts';
export { type KvTokenBytes, kvTokenBytes } from './kv-token-bytes.ts';
export type { KernelBuild } from './platform.ts';
export {
  createLocalAttention,
  type LocalAttentionOptions,
  type LocalAttentionSourceOptions,
  localAttentionSource,
} from './pool.ts';
export * from './remote/index.ts';
