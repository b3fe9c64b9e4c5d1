/** The store's worker: looks at models on servers and downloads them, so that parsing and hashing never hold up the page. */
import { downloadModel } from './download-model.ts';
import type { Access } from './http.ts';
import { inspectModel } from './inspect-model.ts';
import { type Hub, plainError, type StoreCommand, type StoreReply } from './worker-messages.ts';

/** The part of DedicatedWorkerGlobalScope that is used; TypeScript's `dom` and `webworker` libraries exclude each other. */
interface WorkerScope {
  postMessage(message: StoreReply): void;
  addEventListener(type: 'message', listener: (event: { readonly data: StoreCommand }) => void): void;
}

const scope = globalThis as unknown as WorkerScope;
const stop = new AbortController();

scope.addEventListener('message', ({ data }) => {
  if (data.type === 'stop') stop.abort();
  else void answer(data).then((reply) => scope.postMessage(reply));
});

async function answer(command: Exclude<StoreCommand, { readonly type: 'stop' }>): Promise<StoreReply> {
  const options = { signal: stop.signal, access: accessOf(command.hub) };
  try {
    switch (command.type) {
      case 'inspect':
        return {
          type: 'inspected',
          remote: await inspectModel(command.source, { ...options, hubUrl: command.hub.url }),
        };
      case 'download': {
        const onProgress = (progress: Extract<StoreReply, { type: 'progress' }>['progress']) =>
          scope.postMessage({ type: 'progress', progress });
        const { id, remote, timing } = command;
        return { type: 'downloaded', stored: await downloadModel(id, remote, { ...options, ...timing, onProgress }) };
      }
    }
  } catch (thrown) {
    return { type: 'failed', error: plainError(thrown) };
  }
}

function accessOf({ url, token }: Hub): Access | null {
  return token === null ? null : { origin: new URL(url).origin, token };
}
