/** Waiting no longer than it makes sense to: for what may never come, so that nothing behind it is stuck. */

/** Whether it ended well in time; how it ended later is nobody's concern any more. */
export async function endsWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const ended = promise.then(
    () => true,
    () => false,
  );
  try {
    return await Promise.race([ended, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Rejects as soon as the signal is raised; what comes of the promise later is nobody's concern any more. */
export function unlessAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  return abandonable(promise, signal, () => {});
}

/** As the promise; but it rejects when that has not settled so long after the signal was raised, since then it may never. */
export function endsOnceAborted<T>(promise: Promise<T>, signal: AbortSignal, graceMs: number): Promise<T> {
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const aborted = () => {
      timer = setTimeout(() => reject(signal.reason), graceMs);
    };
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted, { once: true });
    promise.then(resolve, reject).finally(() => {
      clearTimeout(timer);
      signal.removeEventListener('abort', aborted);
    });
  });
}

/** Rejects as soon as the signal is raised; what comes later is disposed of. */
export function abandonable<T>(promise: Promise<T>, signal: AbortSignal, dispose: (late: T) => unknown): Promise<T> {
  return new Promise((resolve, reject) => {
    const abandon = () => {
      reject(signal.reason);
      promise.then(dispose, () => {});
    };
    if (signal.aborted) {
      abandon();
      return;
    }
    signal.addEventListener('abort', abandon, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abandon));
  });
}
