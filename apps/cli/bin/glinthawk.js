#!/usr/bin/env node
// Starts the command with a Node that can run it. This file stays within what old Nodes understand.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const WANTED = 24;
const here = dirname(fileURLToPath(import.meta.url));
const source = join(here, '..', 'src', 'main.ts');

function newerNode() {
  try {
    const require = createRequire(import.meta.url);
    const folder = dirname(require.resolve('node/package.json'));
    const binary = join(folder, 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
    return existsSync(binary) ? binary : null;
  } catch {
    return null;
  }
}

function runAgain(binary) {
  const child = spawn(binary, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, GLINTHAWK_RESTARTED: '1' },
  });
  // A terminal sends Ctrl-C to both; the child decides what it means. A signal sent to this process alone is passed on.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  child.on('error', (error) => {
    console.error(`error: ${binary} can't be started: ${error.message}`);
    process.exit(1);
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

if (Number.parseInt(process.versions.node, 10) >= WANTED) {
  const { main } = await import(existsSync(source) ? '../src/main.ts' : '../dist/main.js');
  await main(process.argv.slice(2));
} else {
  const binary = process.env.GLINTHAWK_RESTARTED ? null : newerNode();
  if (binary !== null) {
    runAgain(binary);
  } else {
    console.error(`error: Node ${WANTED} or newer is needed, this is ${process.versions.node}`);
    console.error(`  hint: npm install -g node@${WANTED}, or npx -p node@${WANTED} -p glinthawk glinthawk …`);
    process.exit(2);
  }
}
