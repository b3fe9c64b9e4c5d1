/** Entry point of one lend worker: a lent node, and a report of it now and then. What it does is lent-node.ts. */
import type { LendCommand, LentWorker } from './lend-messages.ts';
import { LentNode } from './lent-node.ts';

const REPORT_MS = 250;

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<LendCommand>) => void) | null;
  postMessage(report: LentWorker): void;
  close(): void;
};

let node: LentNode | null = null;

scope.onmessage = ({ data }) => {
  if (data.type === 'start') {
    if (node !== null) return;
    const started = new LentNode(data);
    node = started;
    scope.postMessage(started.report());
    setInterval(() => scope.postMessage(started.report()), REPORT_MS);
  } else {
    void leave();
  }
};

async function leave(): Promise<void> {
  if (node !== null) {
    await node.stop();
    scope.postMessage(node.report());
  }
  scope.close();
}
