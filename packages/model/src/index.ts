export { blobFiles, type FileSource, type ModelFiles } from './file-source.ts';
export type { ChatTemplate, GenerationDefaults, Model } from './model.ts';
export { type OpenModelOptions, openModel, openModelFiles } from './open-model.ts';
export { encodeChat, encodePrompt } from './prompts.ts';
