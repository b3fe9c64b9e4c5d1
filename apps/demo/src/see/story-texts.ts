/** The texts of one load as they come, a few of them whole and the rest as counts, so that a thousand stories cost no more than fifty. */
import type { Event } from '../engine/protocol.ts';

/** Stories whose text is kept and shown. */
export const STORIES_SHOWN = 48;

export type StoryState = 'waiting' | 'writing' | 'done' | 'failed';

export interface Story {
  readonly text: string;
  readonly state: StoryState;
}

export class StoryTexts {
  readonly run: number;
  readonly #beginnings: readonly string[];
  readonly #texts: string[];
  readonly #states: StoryState[];
  /** Shown stories that changed since they were last asked for. */
  readonly #changed = new Set<number>();
  #failure: string | null = null;

  constructor(run: number, beginnings: readonly string[]) {
    this.run = run;
    this.#beginnings = beginnings;
    this.#texts = beginnings.slice(0, STORIES_SHOWN).map(() => '');
    this.#states = beginnings.map(() => 'waiting');
    for (const i of this.#texts.keys()) this.#changed.add(i);
  }

  get count(): number {
    return this.#beginnings.length;
  }

  /** Why the first story that failed did. */
  get failure(): string | null {
    return this.#failure;
  }

  countOf(state: StoryState): number {
    return this.#states.reduce((sum, each) => sum + (each === state ? 1 : 0), 0);
  }

  story(index: number): Story {
    const text = `${this.#beginnings[index] ?? ''}${this.#texts[index] ?? ''}`;
    return { text, state: this.#states[index] ?? 'waiting' };
  }

  take(event: Event): void {
    if (!('run' in event) || event.run !== this.run) return;
    switch (event.type) {
      case 'tokens':
        for (const { index, text } of event.texts) this.#set(index, 'writing', (this.#texts[index] ?? '') + text);
        break;
      case 'finished':
        this.#set(event.index, 'done', event.text);
        break;
      case 'requestFailed':
        this.#failure ??= event.error.message;
        this.#set(event.index, 'failed', this.#texts[event.index] ?? '');
        break;
      case 'restarted':
        for (const index of event.indices) this.#set(index, 'waiting', '');
        break;
      default:
    }
  }

  /** Indices of shown stories that changed since the last call; all of them for who looks for the first time. */
  takeChanged(): readonly number[] {
    const changed = [...this.#changed];
    this.#changed.clear();
    return changed;
  }

  #set(index: number, state: StoryState, text: string): void {
    if (index < 0 || index >= this.count) return;
    this.#states[index] = state;
    if (index >= this.#texts.length) return;
    this.#texts[index] = text;
    this.#changed.add(index);
  }
}
