/**
 * Lets timers, sockets and signals have their turn. Backends that work in this thread settle their promises in microtasks,
 * and a loop of those never leaves room for anything else.
 */
const EVERY_MS = 8;

export class Breather {
  #last = performance.now();

  /** Cheap when it was called a moment ago. */
  async breathe(): Promise<void> {
    if (performance.now() - this.#last < EVERY_MS) return;
    await nextTask();
    this.#last = performance.now();
  }
}

/** A macrotask without a timer's least delay (1 ms in Node, 4 ms in browsers). */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
