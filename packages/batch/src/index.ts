/** Requests and results of a batch job, in OpenAI Batch's shape. Files, journal and locks are `@glinthawk/batch/node`. */
export * from './batch-request.ts';
export { isObject, nearest, quote } from './fields.ts';
export * from './line-error.ts';
export * from './line-splitter.ts';
export * from './parse-request.ts';
export * from './prepare-request.ts';
export * from './read-requests.ts';
export * from './result-line.ts';
export * from './run-batch.ts';
