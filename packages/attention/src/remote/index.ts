export * from './attention-node.ts';
export type { AttentionNodeStats } from './attention-node-stats.ts';
export * from './remote-attention.ts';
export * from './remote-source.ts';
