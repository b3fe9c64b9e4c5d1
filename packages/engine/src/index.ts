export * from './engine-api.ts';
export * from './request.ts';
