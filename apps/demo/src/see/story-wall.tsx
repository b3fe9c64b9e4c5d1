/** The stories of a load as a wall of small cells that are written to as text comes; only cells that changed are touched. */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { ActiveLoad } from './experiment.ts';
import type { SampleLog } from './sample-log.ts';
import { STORIES_SHOWN } from './story-texts.ts';

const WRITE_EVERY_MS = 200;
/** A cell shows a story's end. */
const TAIL = 220;

interface Counts {
  readonly all: number;
  readonly writing: number;
  readonly done: number;
  readonly failed: number;
  readonly failure: string | null;
}

/** @param load the latest load, ended or not */
export function StoryWall({ log, load }: { readonly log: SampleLog; readonly load: ActiveLoad }) {
  const list = useRef<HTMLOListElement>(null);
  const counts = useSignal<Counts | null>(null);
  useEffect(() => {
    const { texts } = load;
    let timer: ReturnType<typeof setTimeout> | null = null;
    const write = (indices: readonly number[]) => {
      timer = null;
      const cells = list.current?.children;
      for (const index of indices) {
        const cell = cells?.[index];
        if (!(cell instanceof HTMLElement)) continue;
        const { text, state } = texts.story(index);
        if (cell.dataset.state !== state) cell.dataset.state = state;
        const line = cell.firstElementChild;
        if (line !== null) line.textContent = text.length > TAIL ? `…${text.slice(-TAIL)}` : text;
      }
      const [writing, done, failed] = [texts.countOf('writing'), texts.countOf('done'), texts.countOf('failed')];
      counts.value = { all: texts.count, writing, done, failed, failure: texts.failure };
    };
    // Stories may have begun before there was a wall.
    write([...Array(Math.min(STORIES_SHOWN, texts.count)).keys()]);
    const unlisten = log.listen(() => {
      timer ??= setTimeout(() => write(texts.takeChanged()), WRITE_EVERY_MS);
    });
    return () => {
      unlisten();
      if (timer !== null) clearTimeout(timer);
    };
  }, [log, load]);
  const now = counts.value;
  const shown = Math.min(STORIES_SHOWN, load.stories);
  return (
    <div>
      <p class="see-hint">
        {now === null ? '' : `${now.done} of ${now.all} stories done, ${now.writing} being written`}
        {now !== null && now.failed > 0 && `, ${now.failed} failed: ${now.failure ?? ''}`}
        {load.stories > shown && `; the first ${shown} are shown`}
      </p>
      <ol ref={list} class="see-wall">
        {Array.from({ length: shown }, (_, i) => (
          <li key={i} data-state="waiting">
            <p />
          </li>
        ))}
      </ol>
    </div>
  );
}
