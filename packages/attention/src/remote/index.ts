export * from './attention-node.ts';
export * from './log-sum-exp.ts';
export * from './remote-attention.ts';
export * from './remote-source.ts';
