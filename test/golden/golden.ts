/** golden.json from a model's folder, in Node. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type GoldenCase, parseGolden } from './golden-cases.ts';

export { expectFirstTop, type GoldenCase } from './golden-cases.ts';

export function loadGolden(modelPath: string): readonly GoldenCase[] {
  return parseGolden(readFileSync(join(modelPath, 'golden.json'), 'utf8'));
}
