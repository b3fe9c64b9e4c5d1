/** What opening a model gives, whatever its files are: the contract between model formats and everything else. */
import type { ChatMessage, ModelConfig, Tokenizer, WeightSource } from '@glinthawk/core';

export interface ChatTemplate {
  /** The conversation as the model's prompt text, with the generation prompt. @throws InputError when the template rejects it. */
  render(messages: readonly ChatMessage[]): string;
}

export interface GenerationDefaults {
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly repetitionPenalty?: number;
}

export interface Model {
  /** The folder's or file's name, for people. */
  readonly name: string;
  readonly format: 'huggingface' | 'gguf';
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer | null;
  readonly chatTemplate: ChatTemplate | null;
  readonly generationDefaults: GenerationDefaults;
  readonly weights: WeightSource;
  /** SHA-256 (hex) over configuration, tokenizer, tensor table and samples of the weights: changes when the model does. */
  readonly fingerprint: string;
  /** What a user should know of how it was opened, one sentence each; absent when there is nothing to say. */
  readonly notes?: readonly string[];
  close(): Promise<void>;
}
