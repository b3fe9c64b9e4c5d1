/** The store as the page uses it. The engine's worker takes stored-files.ts alone. */
export { formatBytes } from './format-bytes.ts';
export { formatModelSource, nameOfSource, parseModelSource } from './model-source.ts';
export { type ModelStoreOptions, openModelStore } from './model-store.ts';
export { NetworkError } from './network-error.ts';
export * from './store-api.ts';
