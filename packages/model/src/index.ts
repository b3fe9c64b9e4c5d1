export * from './open-model.ts';
