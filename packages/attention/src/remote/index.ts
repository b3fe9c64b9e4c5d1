export * from './attention-node.ts';
export * from './remote-attention.ts';
export * from './remote-source.ts';
