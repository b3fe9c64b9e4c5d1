/**
 * Compiles kernels/ to wasm/ with clang from npm (itself WebAssembly, so no compiler need be installed). A module is skipped
 * when its sources, flags and compiler are the ones it was built from: their hash stands in a custom section of the module.
 * `node scripts/build-wasm.ts peaks` builds what only benchmarks use, which no package ships.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { commands } from '@yowasp/clang';

const packageRoot = resolve(import.meta.dirname, '..');
const kernelsFolder = join(packageRoot, 'kernels');
const wasmFolder = join(packageRoot, 'wasm');
const benchFolder = join(packageRoot, 'bench/wasm');
const HASH_SECTION = 'glinthawk.sources';

const COMMON_FLAGS = [
  '--target=wasm32',
  '-std=c11',
  '-O3',
  '-Wall',
  '-Werror',
  '-msimd128',
  '-mbulk-memory',
  '-ffreestanding',
  '-nostdlib',
  // Loop strength reduction splits one pointer with constant offsets into many pointers: a fifth slower.
  '-mllvm',
  '-disable-lsr',
  '-Wl,--no-entry,--import-memory,--max-memory=4294901760,--export=__heap_base,--export=__stack_pointer,-z,stack-size=65536',
];
const SHARED_FLAGS = ['-matomics', '-Wl,--shared-memory'];
const RELAXED_FLAGS = ['-mrelaxed-simd'];

/** Worker pools need shared memory; where a page isn't cross-origin isolated, kernels run in its own thread without. */
const shipped = [
  { name: 'attention-relaxed-shared', flags: [...RELAXED_FLAGS, ...SHARED_FLAGS] },
  { name: 'attention-plain-shared', flags: SHARED_FLAGS },
  { name: 'attention-relaxed', flags: RELAXED_FLAGS },
  { name: 'attention-plain', flags: [] },
];
const peaks = [
  { name: 'peaks-relaxed', flags: [...RELAXED_FLAGS, ...SHARED_FLAGS] },
  { name: 'peaks-plain', flags: SHARED_FLAGS },
];

function compilerVersion(): string {
  // The package exports no package.json, so it is read beside its entry point.
  const entry = createRequire(import.meta.url).resolve('@yowasp/clang');
  const manifest: { readonly version: string } = JSON.parse(
    readFileSync(join(dirname(entry), '..', 'package.json'), 'utf8'),
  );
  return manifest.version;
}

const sources = Object.fromEntries(
  readdirSync(kernelsFolder)
    .filter((name) => /\.[ch]$/.test(name))
    .sort()
    .map((name) => [name, readFileSync(join(kernelsFolder, name), 'utf8')]),
);

function sourceHash(args: readonly string[]): string {
  return createHash('sha256')
    .update(JSON.stringify([compilerVersion(), args, sources]))
    .digest('hex');
}

function hashSection(hash: string): Buffer {
  const name = Buffer.from(HASH_SECTION);
  const body = Buffer.concat([Buffer.from([name.length]), name, Buffer.from(hash)]);
  return Buffer.concat([Buffer.from([0, body.length]), body]); // both lengths are below 128: one LEB128 byte each
}

async function build(folder: string, source: string, name: string, flags: readonly string[]): Promise<void> {
  const target = join(folder, `${name}.wasm`);
  const args = [...COMMON_FLAGS, ...flags, source, '-o', 'out.wasm'];
  const section = hashSection(sourceHash(args));
  const label = relative(packageRoot, target);
  if (existsSync(target) && readFileSync(target).subarray(-section.length).equals(section)) {
    console.log(`${label}: up to date`);
    return;
  }
  const started = performance.now();
  let messages = '';
  const decoder = new TextDecoder();
  const collect = (bytes: Uint8Array | null) => {
    if (bytes !== null) messages += decoder.decode(bytes, { stream: true });
  };
  let built: unknown;
  try {
    // Reads the compiler's own files; asked for apart, or it prints its progress.
    await commands.clang(undefined, {}, { fetchProgress: () => {} });
    const files = await commands.clang([...args], sources, {
      stdout: collect,
      stderr: collect,
    });
    built = files?.['out.wasm'];
  } catch {
    // The exception carries every source file; what went wrong stands in the messages.
  }
  if (!(built instanceof Uint8Array)) {
    console.error(`${label} did not compile:\n${messages}`);
    process.exit(1);
  }
  mkdirSync(folder, { recursive: true });
  // Renamed into place, so that a reader, or another build at the same time, never sees half a module.
  const partial = `${target}.${process.pid}.partial`;
  writeFileSync(partial, Buffer.concat([built, section]));
  renameSync(partial, target);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${label}: ${((built.length + section.length) / 1024).toFixed(1)} KiB in ${seconds} s`);
}

if (process.argv[2] === 'peaks') {
  for (const { name, flags } of peaks) await build(benchFolder, 'peaks.c', name, flags);
} else {
  for (const { name, flags } of shipped) await build(wasmFolder, 'attention.c', name, flags);
}
