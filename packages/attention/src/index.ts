export * from './backend.ts';
export { createInlineAttention, type InlineAttentionOptions } from './inline.ts';
export { type AttentionKernelInfo, attentionKernelInfo, type KernelBuild } from './kernel.ts';
export {
  createLocalAttention,
  type LocalAttentionOptions,
  type LocalAttentionSourceOptions,
  localAttentionSource,
} from './pool.ts';
export * from './remote/index.ts';
