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
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, GLINTHAWK_RESTARTED: '1' },
  });
  // As messages: of Ctrl-C a terminal tells both processes, and the child must not take that for two.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      if (child.connected) child.send({ signal }, () => {});
    });
  }
  child.on('error', (error) => {
    console.error(`error: ${binary} can't be started: ${error.message}`);
    process.exit(1);
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    if (signal === 'SIGKILL') process.exit(137);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

/** In the process that runAgain starts. */
function followLauncher() {
  // However the launcher ended, nobody waits for this process any more: it goes as the launcher went.
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  process.on('message', ({ signal }) => {
    // A verb that listens to signals listens to this message too.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  });
  process.channel.unref();
}

if (Number.parseInt(process.versions.node, 10) >= WANTED) {
  if (process.env.GLINTHAWK_RESTARTED && process.connected) followLauncher();
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
