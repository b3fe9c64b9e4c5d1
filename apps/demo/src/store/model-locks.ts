/**
 * Who may touch a stored model, over all tabs of this browser: a download or a removal alone, any number of readers together. Web
 * Locks end with the tab or worker that holds them, however it ends.
 */
import { InputError } from '@glinthawk/core';

function lockName(id: string): string {
  return `glinthawk model ${id}`;
}

/** Runs `work` as the only one. @throws InputError at once when others are at it */
export async function withModelAlone<T>(id: string, work: () => Promise<T>): Promise<T> {
  return navigator.locks.request(lockName(id), { mode: 'exclusive', ifAvailable: true }, async (lock) => {
    if (lock === null) throw await busy(id);
    return work();
  });
}

/** Holds a stored model for reading until the result is called, or the caller's tab or worker ends. @throws InputError */
export async function holdModel(id: string): Promise<() => void> {
  return new Promise((resolve, reject) => {
    navigator.locks
      .request(lockName(id), { mode: 'shared', ifAvailable: true }, async (lock) => {
        if (lock === null) throw await busy(id);
        await new Promise<void>((release) => resolve(release));
      })
      .catch(reject);
  });
}

async function busy(id: string): Promise<InputError> {
  const { held = [] } = await navigator.locks.query();
  const writing = held.some(({ name, mode }) => name === lockName(id) && mode === 'exclusive');
  return writing
    ? new InputError('MODEL_BUSY', 'this model is being downloaded or deleted, here or in another tab', {
        hint: 'Wait for it to end, or stop it there.',
      })
    : new InputError('MODEL_BUSY', 'this model is open, here or in another tab', {
        hint: 'Close it there first, or close that tab.',
      });
}
