export { checkWeights, type WeightCheck } from './check-weights.ts';
export { describeModel, kvBytesPerToken, type ModelDescription, type TensorKindTotal } from './describe-model.ts';
export { blobFiles, type FileSource, type ModelFiles } from './file-source.ts';
export type { ChatTemplate, GenerationDefaults, Model } from './model.ts';
export type { ModelTokenizer } from './model-tokenizer.ts';
export { type OpenModelOptions, openModel, openModelFiles } from './open-model.ts';
export { encodeChat, encodePrompt } from './prompts.ts';
export { weightShapes } from './weight-shapes.ts';
