/** The text side of a model, as the engine and the batch reader see it. */
export interface Tokenizer {
  readonly vocabSize: number;
  /** Token ids of a text; special tokens written in the text are recognised. `addSpecial` adds what the model's tokenizer adds (BOS). */
  encode(text: string, options: { readonly addSpecial: boolean }): number[];
  /**
   * The bytes that a token adds to a text that already has something before it; empty for special tokens. Bytes, because a
   * character may be spread over several tokens.
   */
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
}

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
}
