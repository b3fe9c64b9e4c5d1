/** Text of a run's prompts on its way to the page: what became certain within a twentieth of a second goes in one message. */
import type { Event } from './protocol.ts';

const BETWEEN_MESSAGES_MS = 50;

type TokensEvent = Extract<Event, { type: 'tokens' }>;

export class TokenStream {
  readonly #run: number;
  readonly #send: (event: TokensEvent) => void;
  /** Text not sent yet, by prompt. */
  readonly #waiting = new Map<number, string>();
  /** Tokens so far, by prompt. */
  readonly #tokens = new Map<number, number>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #sentAtMs = Number.NEGATIVE_INFINITY;

  constructor(run: number, send: (event: TokensEvent) => void) {
    this.#run = run;
    this.#send = send;
  }

  /** Of all prompts, those that ended too. */
  get generatedTokens(): number {
    let sum = 0;
    for (const tokens of this.#tokens.values()) sum += tokens;
    return sum;
  }

  push(index: number, text: string): void {
    this.#tokens.set(index, (this.#tokens.get(index) ?? 0) + 1);
    this.#waiting.set(index, (this.#waiting.get(index) ?? '') + text);
    this.#timer ??= setTimeout(
      () => {
        this.#timer = null;
        this.flush();
      },
      Math.max(0, this.#sentAtMs + BETWEEN_MESSAGES_MS - performance.now()),
    );
  }

  /** What a prompt has said is void: it begins anew. */
  restart(index: number): void {
    this.#waiting.delete(index);
    this.#tokens.delete(index);
  }

  /** A prompt is done: its `finished` has the whole text, so that what waits of it needn't be sent. */
  end(index: number, tokens: number): void {
    this.#waiting.delete(index);
    this.#tokens.set(index, tokens);
  }

  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#waiting.size === 0) return;
    const texts = [...this.#waiting].map(([index, text]) => ({ index, text, tokens: this.#tokens.get(index) ?? 0 }));
    this.#waiting.clear();
    this.#sentAtMs = performance.now();
    this.#send({ type: 'tokens', run: this.#run, texts });
  }
}
