/**
 * Writes packages/dense/src/webgpu/shaders.gen.ts from shaders/*.wgsl, so that Node, bundlers and the published package load
 * the same text without reading files. `node scripts/embed-shaders.ts` after a shader changes; a test fails when it is stale.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const shadersFolder = join(root, 'shaders');
export const generatedShaders = join(root, 'packages', 'dense', 'src', 'webgpu', 'shaders.gen.ts');

/** The text of shaders.gen.ts. */
export function embedShaders(): string {
  const names = readdirSync(shadersFolder)
    .filter((file) => file.endsWith('.wgsl'))
    .map((file) => file.slice(0, -'.wgsl'.length))
    .sort();
  const entries = names.map((name) => {
    const wgsl = readFileSync(join(shadersFolder, `${name}.wgsl`), 'utf8');
    return `  ${name}: \`${wgsl.replaceAll(/[\\`]|\$\{/g, '\\$&')}\`,\n`;
  });
  return [
    '/** Generated from shaders/*.wgsl by scripts/embed-shaders.ts. Change those, then run it again. */\n',
    `export const SHADERS = {\n${entries.join('')}} as const;\n`,
  ].join('');
}

if (import.meta.main) writeFileSync(generatedShaders, embedShaders());
