export { MAX_STOP_STRINGS } from './detokenizer.ts';
export { createEngine, Engine } from './engine.ts';
export * from './engine-api.ts';
export * from './request.ts';
export { MAX_TOP_LOGPROBS } from './sampler.ts';
export * from './scheduler/placement.ts';
export * from './scheduler/policy.ts';
