/** One line of the input, understood but not yet tokenised: what was asked, in Glinthawk's words, with absent fields left absent. */

export interface BatchMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
  readonly name?: string;
}

export type BatchPrompt =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'tokens'; readonly ids: readonly number[] }
  | { readonly type: 'chat'; readonly messages: readonly BatchMessage[] };

/** The shape of the answer: `chat.completion` or `text_completion`. */
export type AnswerKind = 'chat' | 'completion';

export interface BatchRequest {
  /** 1 for the first line of the file. */
  readonly line: number;
  readonly customId: string;
  readonly kind: AnswerKind;
  /** What stands before a field's name in this line: `body.`, or nothing in the plain form. */
  readonly path: string;
  readonly prompt: BatchPrompt;
  /** The body's own `model`, echoed in the answer. */
  readonly model: string | null;
  readonly maxTokens: number | null;
  readonly temperature: number | null;
  readonly topP: number | null;
  readonly topK: number | null;
  readonly minP: number | null;
  /** Unsigned 64 bits. */
  readonly seed: bigint | null;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly repetitionPenalty: number | null;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
  /** Choices asked for. */
  readonly n: number;
  /** null: none; k: the chosen token's and the k most probable ones'. */
  readonly topLogprobs: number | null;
  readonly returnTokenIds: boolean;
  readonly tokensAsIds: boolean;
}

export const MAX_STOP_STRINGS = 4;
export const MAX_STOP_TOKEN_IDS = 256;
export const MAX_CHOICES = 128;
export const MAX_TOP_LOGPROBS = 20;
export const MAX_CUSTOM_ID_CHARACTERS = 512;
