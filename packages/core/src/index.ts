export * from './dtype.ts';
export * from './errors.ts';
export * from './logger.ts';
export * from './model-config.ts';
export * from './rope.ts';
export * from './sleep.ts';
export * from './tokenizer.ts';
export * from './weights.ts';
