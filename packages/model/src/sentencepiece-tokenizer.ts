/**
 * SentencePiece's BPE as GGUF files carry it (`tokenizer.ggml.model` = `llama`): tokens with scores, no merge list. Neighbours
 * whose concatenation is a token are merged, the best score first, the leftmost among equals; what is then no token falls
 * back to its bytes. Equal to llama.cpp's `llm_tokenizer_spm`. A heap makes it n log n.
 */
import { fallbackByte, type ModelTokenizer, NO_BYTES } from './model-tokenizer.ts';
import { SpecialSplitter } from './special-splitter.ts';

const SPACE = '▁';

/** ggml's `enum llama_token_type`. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface SentencePieceVocabulary {
  /** By id. */
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  readonly unknownId: number | undefined;
  /** What `addSpecial` puts before and after. */
  readonly before: readonly number[];
  readonly after: readonly number[];
  /** Whether a space precedes the text (and each text after a special token). */
  readonly addSpacePrefix: boolean;
}

export class SentencePieceTokenizer implements ModelTokenizer {
  readonly kind = 'SentencePiece BPE (GGUF metadata)';
  readonly vocabSize: number;
  readonly #vocabulary: SentencePieceVocabulary;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #splitter: SpecialSplitter;
  /** Token of each byte, where there is one. [256] */
  readonly #byteIds: readonly (number | undefined)[];

  constructor(vocabulary: SentencePieceVocabulary) {
    this.vocabSize = vocabulary.tokens.length;
    this.#vocabulary = vocabulary;
    this.#ids = new Map(vocabulary.tokens.map((token, id) => [token, id]));
    const special = vocabulary.tokens
      .map((text, id) => ({ text, id }))
      .filter(({ id }) => this.isSpecial(id) || vocabulary.types[id] === TOKEN_TYPE.userDefined);
    this.#splitter = new SpecialSplitter(special);
    const byteIds: (number | undefined)[] = new Array<number | undefined>(256).fill(undefined);
    for (const [id, token] of vocabulary.tokens.entries()) {
      const byte = vocabulary.types[id] === TOKEN_TYPE.byte ? fallbackByte(token) : undefined;
      if (byte !== undefined) byteIds[byte] = id;
    }
    this.#byteIds = byteIds;
  }

  encode(text: string, options: { readonly addSpecial: boolean }): number[] {
    const { before, after, addSpacePrefix } = this.#vocabulary;
    const ids: number[] = options.addSpecial ? [...before] : [];
    let afterSpecial = true;
    for (const part of this.#splitter.split(text)) {
      if (typeof part === 'number') {
        ids.push(part);
        afterSpecial = true;
      } else {
        this.#merge((addSpacePrefix && afterSpecial ? ` ${part}` : part).replaceAll(' ', SPACE), ids);
        afterSpecial = false;
      }
    }
    if (options.addSpecial) ids.push(...after);
    return ids;
  }

  tokenBytes(id: number): Uint8Array {
    const { tokens, types } = this.#vocabulary;
    const token = tokens[id];
    if (token === undefined || this.isSpecial(id)) return NO_BYTES;
    const byte = types[id] === TOKEN_TYPE.byte ? fallbackByte(token) : undefined;
    if (byte !== undefined) return Uint8Array.of(byte);
    return new TextEncoder().encode(types[id] === TOKEN_TYPE.userDefined ? token : token.replaceAll(SPACE, ' '));
  }

  isSpecial(id: number): boolean {
    const type = this.#vocabulary.types[id];
    return type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown;
  }

  /** Appends the ids of `text`, whose spaces are already ▁. */
  #merge(text: string, ids: number[]): void {
    const symbols = Array.from(text); // a merged symbol stands at its first part's place, '' at the others'
    const previous = symbols.map((_, i) => i - 1);
    const next = symbols.map((_, i) => i + 1);
    const heap = new MergeHeap();
    const consider = (left: number, right: number) => {
      if (left < 0 || right >= symbols.length) return;
      const merged = `${symbols[left]}${symbols[right]}`;
      const id = this.#ids.get(merged);
      if (id !== undefined) heap.push({ left, right, merged, score: this.#vocabulary.scores[id] ?? 0 });
    };
    for (let i = 0; i + 1 < symbols.length; i++) consider(i, i + 1);
    for (let best = heap.pop(); best !== undefined; best = heap.pop()) {
      const { left, right, merged } = best;
      // Either part may have been merged otherwise since.
      if (symbols[left] === '' || symbols[right] === '' || `${symbols[left]}${symbols[right]}` !== merged) continue;
      symbols[left] = merged;
      symbols[right] = '';
      const after = next[right] as number;
      next[left] = after;
      if (after < symbols.length) previous[after] = left;
      consider(previous[left] as number, left);
      consider(left, after);
    }
    for (let i = 0; i < symbols.length; i = next[i] as number) this.#emit(symbols[i] as string, ids);
  }

  #emit(symbol: string, ids: number[]): void {
    const id = this.#ids.get(symbol);
    if (id !== undefined) {
      ids.push(id);
      return;
    }
    for (const byte of new TextEncoder().encode(symbol)) {
      const byteId = this.#byteIds[byte] ?? this.#vocabulary.unknownId;
      if (byteId !== undefined) ids.push(byteId);
    }
  }
}

interface Merge {
  readonly left: number;
  readonly right: number;
  readonly merged: string;
  readonly score: number;
}

function comesBefore(a: Merge, b: Merge): boolean {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}

/** Binary heap: the best merge first. */
class MergeHeap {
  readonly #merges: Merge[] = [];

  push(merge: Merge): void {
    const heap = this.#merges;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Merge;
      if (!comesBefore(merge, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = merge;
  }

  pop(): Merge | undefined {
    const heap = this.#merges;
    const best = heap[0];
    const last = heap.pop();
    if (best === undefined || last === undefined || heap.length === 0) return best;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && comesBefore(heap[child + 1] as Merge, heap[child] as Merge)) child++;
      if (!comesBefore(heap[child] as Merge, last)) break;
      heap[at] = heap[child] as Merge;
      at = child;
    }
    heap[at] = last;
    return best;
  }
}
