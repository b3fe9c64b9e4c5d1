/** A dense worker as a Node worker thread. */
import { parentPort } from 'node:worker_threads';
import { createRequestHandler } from './dense-worker.ts';
import { createTfjsEngine } from './tfjs-engine.ts';

if (parentPort === null) throw new Error('worker.node runs in a worker thread only');
const port = parentPort;
port.on(
  'message',
  createRequestHandler({ post: (reply, transfer) => port.postMessage(reply, transfer) }, createTfjsEngine),
);
