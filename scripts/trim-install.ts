/**
 * Part of `npm ci`: the `node` package brings a whole Node distribution to link one binary out of it. Its headers, manuals and
 * change log (62 MB) are nobody's here.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const nested = join(import.meta.dirname, '..', 'node_modules', 'node', 'node_modules');
const distributions = existsSync(nested)
  ? readdirSync(nested).filter((name) => /^node-(linux|darwin|win)/.test(name))
  : [];
for (const distribution of distributions) {
  for (const part of ['include', 'share', 'CHANGELOG.md']) {
    rmSync(join(nested, distribution, part), { recursive: true, force: true });
  }
}
