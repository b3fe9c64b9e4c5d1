export * from './join.node.ts';
export * from './remote-source.node.ts';
export * from './serve.node.ts';
