/** For tests: a whole job in a process of its own, with a slow fake engine, made to be killed. `batch-process.fixture.ts IN OUT` */
import { byteModel, byteTokenizer, fakeEngine } from '../fake-engine.fixture.ts';
import { readRequests, summariseInput } from '../read-requests.ts';
import { runBatch } from '../run-batch.ts';
import { openInputFile } from './input-file.ts';
import { openJob } from './job.ts';
import { acquireLock } from './lock.ts';

const [inputPath = '', output = ''] = process.argv.slice(2);
const model = byteModel();
const lock = await acquireLock(`${output}.lock`);
const input = await openInputFile(inputPath);
const sha256 = await input.sha256();
const summary = await summariseInput(input.lines(), model);
const job = await openJob({
  output,
  header: { input: { name: inputPath, sha256 }, model: { name: 'bytes', fingerprint: 'f' }, settings: {} },
  requests: summary.requests,
  ordered: false,
  restart: false,
});
if (job.type === 'open') {
  process.stdout.write(`resumed ${job.done}\n`);
  await runBatch({
    engine: fakeEngine({ delayMs: 1, seed: process.pid }),
    requests: readRequests(input.lines(), model, summary, (ordinal) => job.isDone(ordinal)),
    sink: job,
    inputSha256: sha256,
    modelName: 'bytes',
    tokenizer: byteTokenizer,
    onFinished: ({ ordinal }) => process.stdout.write(`done ${ordinal}\n`),
  });
  await job.finish(true);
  await job.close();
}
await input.close();
await lock.release();
process.stdout.write('complete\n');
