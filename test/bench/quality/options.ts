/** The flags of bench:quality. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

export const USAGE = `node test/bench/quality/main.ts [flags]
  --model PATH     a model's folder or GGUF file; default smollm2-135m-instruct of the models folder, beside a checkout
                   or in $GLINTHAWK_MODELS
  --tokens N       of each text, default 1024; contexts are as long
  --texts N        how many of the texts in test/bench/quality/text, default all
  --only LIST      variants by name; a name's beginning stands for all that begin so
  --key-bias X     add X times its root mean square to two channels of each head of K, which changes nothing in exact
                   arithmetic: outliers as biased keys have them
  --workers N      of the dense tier, and of attention, default ${availableParallelism()}
  --markdown       a table for docs
  --json FILE      everything measured, errors by layer too
  --help`;

export interface Options {
  readonly model: string | null;
  readonly tokens: number;
  readonly texts: number;
  readonly only: readonly string[] | null;
  readonly keyBias: number;
  readonly workers: number;
  readonly markdown: boolean;
  readonly json: string | null;
}

export class UsageError extends Error {}

/** @throws UsageError, which is also how --help ends */
export function parseOptions(args: readonly string[]): Options {
  const parse = () =>
    parseArgs({
      args: [...args],
      options: {
        model: { type: 'string' },
        tokens: { type: 'string', default: '1024' },
        texts: { type: 'string', default: '99' },
        only: { type: 'string' },
        'key-bias': { type: 'string', default: '0' },
        workers: { type: 'string', default: String(availableParallelism()) },
        markdown: { type: 'boolean', default: false },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  let values: ReturnType<typeof parse>['values'];
  try {
    ({ values } = parse());
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n\n${USAGE}`);
  }
  if (values.help) throw new UsageError(USAGE);
  const keyBias = Number(values['key-bias']);
  if (!(keyBias >= 0 && keyBias <= 1e4)) {
    throw new UsageError(`--key-bias is a number from 0 to 10000, found "${values['key-bias']}"`);
  }
  return {
    model: values.model ?? null,
    tokens: wholeNumber('tokens', values.tokens, 2),
    texts: wholeNumber('texts', values.texts, 1),
    only: values.only?.split(',') ?? null,
    keyBias,
    workers: wholeNumber('workers', values.workers, 1),
    markdown: values.markdown,
    json: values.json ?? null,
  };
}

function wholeNumber(flag: string, text: string, least: number): number {
  const number = Number(text);
  if (!/^\d{1,6}$/.test(text) || number < least) {
    throw new UsageError(`--${flag} is a whole number of at least ${least}, found "${text}"`);
  }
  return number;
}
