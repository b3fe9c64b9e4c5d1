export * from './backend.ts';
export { createWasmDense, type WasmDenseOptions } from './wasm/create-wasm-dense.ts';
export * from './webgpu/index.ts';
