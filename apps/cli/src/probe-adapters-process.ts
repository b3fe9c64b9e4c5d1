/** The child process of probe-adapters.ts: prints what there is as one line of JSON. */
import { probeAdapters } from '@glinthawk/dense/webgpu';

process.stdout.write(`${JSON.stringify(await probeAdapters())}\n`, () => process.exit(0));
