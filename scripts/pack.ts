/**
 * Makes publishable tarballs in `dist-packages/`: each workspace's manifest with its exports, imports and bin pointing at
 * built files instead of sources. In the checkout they point at TypeScript, which Node 24 runs, so that nothing needs building
 * while developing. Run `npm run build` first.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const target = join(root, 'dist-packages');

/** `./src/a.ts` → `./dist/a.js`, with its declarations beside it, at any depth of conditions. */
function built(value: unknown, withTypes: boolean): unknown {
  if (typeof value === 'string') {
    if (!/^\.\/src\/.*\.ts$/.test(value)) return value;
    const stem = value.replace('./src/', './dist/').replace(/\.ts$/, '');
    return withTypes ? { types: `${stem}.d.ts`, default: `${stem}.js` } : `${stem}.js`;
  }
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, built(inner, withTypes)]));
}

function pack(folder: string): string {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  if (!existsSync(join(folder, 'dist'))) throw new Error(`${folder} is not built: run \`npm run build\` first`);
  const stage = join(target, 'stage', manifest.name);
  mkdirSync(stage, { recursive: true });
  for (const part of ['dist', 'wasm', 'bin']) {
    if (existsSync(join(folder, part)))
      cpSync(join(folder, part), join(stage, part), {
        recursive: true,
        filter: (path) => !path.endsWith('.tsbuildinfo'),
      });
  }
  cpSync(join(root, 'LICENSE'), join(stage, 'LICENSE'));
  const { exports, imports, scripts: _, devDependencies: __, ...rest } = manifest;
  const published = {
    ...rest,
    files: ['dist', 'wasm', 'bin'],
    ...(exports ? { exports: built(exports, true) } : {}),
    ...(imports ? { imports: built(imports, false) } : {}),
  };
  writeFileSync(join(stage, 'package.json'), `${JSON.stringify(published, null, 2)}\n`);
  const result = spawnSync('npm', ['pack', '--silent', '--pack-destination', target], { cwd: stage, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`npm pack of ${manifest.name} failed: ${result.stderr}`);
  return result.stdout.trim();
}

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const group of ['packages', 'apps']) {
  for (const name of readdirSync(join(root, group))) {
    const folder = join(root, group, name);
    if (existsSync(join(folder, 'package.json'))) console.log(pack(folder));
  }
}
rmSync(join(target, 'stage'), { recursive: true });
