/**
 * Finds or installs what the tests run on besides Node: a Chromium, and a Vulkan driver for Dawn where there is no GPU. Prefers
 * what is there, then apt (as root on Debian and Ubuntu), then what npm can bring. Says what it chose and why.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { chromium as playwrightChromium } from 'playwright';

export interface TestDevices {
  readonly chromium: string;
  readonly webgpu: string;
  /** Environment that the tests need to use them. */
  readonly env: Readonly<Record<string, string>>;
}

const say = (message: string) => console.log(`devices: ${message}`);
const mayUseApt = process.platform === 'linux' && process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  return spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, ...env }, timeout: 600_000 });
}

function apt(args: readonly string[]): boolean {
  const result = run('apt-get', args, { DEBIAN_FRONTEND: 'noninteractive' });
  if (result.status !== 0) say(`apt-get ${args.join(' ')} failed: ${result.stderr.trim().split('\n').at(-1)}`);
  return result.status === 0;
}

let aptUpdated = false;
function aptInstall(packages: readonly string[], suite?: string): boolean {
  if (!aptUpdated) aptUpdated = apt(['update', '-q']);
  return apt(['install', '-y', '-q', '--no-install-recommends', ...(suite ? ['-t', suite] : []), ...packages]);
}

function findChromium(): string | null {
  const candidates = [
    process.env.GLINTHAWK_CHROMIUM,
    '/usr/bin/chromium',
    '/usr/lib/chromium/chromium',
    '/usr/bin/google-chrome',
    playwrightChromium.executablePath(),
  ];
  return candidates.find((path) => path && existsSync(path)) ?? null;
}

function ensureChromium(): string {
  const found = findChromium();
  if (found) return found;
  if (mayUseApt && readOsRelease().ID === 'debian') {
    say('no Chromium found: installing it by apt');
    aptInstall(['chromium']);
  }
  const installed = findChromium();
  if (installed) return installed;
  say('no Chromium found: installing it by playwright');
  const failure = installByPlaywright();
  const downloaded = findChromium();
  if (downloaded) return downloaded;
  throw new Error(
    `No Chromium, and it could not be installed (${failure}). Install Chromium or Chrome and set GLINTHAWK_CHROMIUM to its path.`,
  );
}

/** @returns what it said last when it failed */
function installByPlaywright(): string | null {
  if (mayUseApt && run('npx', ['playwright', 'install', '--with-deps', 'chromium']).status === 0) return null;
  const { status, stderr } = run('npx', ['playwright', 'install', 'chromium']);
  return status === 0 ? null : (stderr.trim().split('\n').at(-1) ?? 'no reason given');
}

function readOsRelease(): Record<string, string> {
  const path = '/etc/os-release';
  if (!existsSync(path)) return {};
  const pairs = readFileSync(path, 'utf8')
    .split('\n')
    .map((line) => /^(\w+)="?(.*?)"?$/.exec(line))
    .filter((match) => match !== null);
  return Object.fromEntries(pairs.map((match) => [match[1], match[2]]));
}

/** What Dawn finds with this environment; null when it finds no adapter (a driver that it rejects, or none). */
function probeAdapter(
  env: Readonly<Record<string, string>>,
): { readonly name: string; readonly software: boolean } | null {
  const program = `
    import { create } from 'webgpu';
    const gpu = create([]);
    const adapter = await gpu.requestAdapter();
    if (adapter) console.log(JSON.stringify({ name: adapter.info.description || adapter.info.device || adapter.info.vendor, software: adapter.info.isFallbackAdapter ?? false }));
    process.exit(0);`;
  const cwd = join(import.meta.dirname, '..', 'packages', 'dense');
  const result = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    encoding: 'utf8',
    cwd,
    env: { ...process.env, ...env },
    timeout: 60_000,
  });
  const line = result.stdout?.trim().split('\n').at(-1);
  return result.status === 0 && line ? JSON.parse(line) : null;
}

function lavapipeIcd(): string | null {
  const folder = '/usr/share/vulkan/icd.d';
  if (!existsSync(folder)) return null;
  const name = readdirSync(folder).find((file) => /^lvp_icd.*\.json$/.test(file));
  return name ? join(folder, name) : null;
}

/** Debian 12's own Mesa is too old for Dawn: its backports have one that works. The mirror is the one in use. */
function enableBackports(): string | undefined {
  const { ID, VERSION_CODENAME } = readOsRelease();
  if (ID !== 'debian' || VERSION_CODENAME !== 'bookworm') return undefined;
  const suite = 'bookworm-backports';
  const sources = ['/etc/apt/sources.list', '/etc/apt/sources.list.d/debian.sources']
    .filter((path) => existsSync(path))
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n');
  if (sources.includes(suite)) return suite;
  const mirror = /^URIs:\s*(\S+)/m.exec(sources)?.[1] ?? /^deb\s+(?:\[.*?\]\s+)?(\S+)\s+bookworm\s/m.exec(sources)?.[1];
  if (!mirror) return undefined;
  writeFileSync('/etc/apt/sources.list.d/glinthawk-backports.list', `deb ${mirror} ${suite} main\n`);
  aptUpdated = false;
  return suite;
}

interface WebGpuDevice {
  readonly description: string;
  readonly env: Readonly<Record<string, string>>;
}

function ensureWebGpu(chromium: string): WebGpuDevice {
  if (process.platform !== 'linux') {
    const adapter = probeAdapter({});
    if (adapter) return { description: adapter.name, env: {} };
    throw new Error('Dawn finds no GPU adapter on this machine.');
  }
  const lavapipe = () => {
    const icd = lavapipeIcd();
    const env: Record<string, string> = icd ? { VK_ICD_FILENAMES: icd, GLINTHAWK_TEST_ADAPTER: 'lavapipe' } : {};
    const adapter = icd ? probeAdapter(env) : null;
    return adapter ? { description: `${adapter.name} (software)`, env } : null;
  };
  const present = lavapipe();
  if (present) return present;
  const gpu = probeAdapter({});
  if (gpu && !gpu.software) return { description: gpu.name, env: {} };
  if (mayUseApt) {
    say('no usable lavapipe (Mesa ≥ 25) found: installing it by apt');
    aptInstall(['mesa-vulkan-drivers', 'libvulkan1'], enableBackports());
    const installed = lavapipe();
    if (installed) return installed;
  }
  const found = swiftShader(chromium);
  if (found) return found;
  if (!existsSync(playwrightChromium.executablePath())) {
    say(`no SwiftShader beside ${chromium}: installing Playwright's Chromium for it`);
    installByPlaywright();
  }
  const downloaded = swiftShader(playwrightChromium.executablePath());
  if (downloaded) return downloaded;
  throw new Error(
    'Dawn finds no Vulkan driver. Install Mesa ≥ 25 (Debian: mesa-vulkan-drivers and libvulkan1, on bookworm from backports), or a Chromium with SwiftShader.',
  );
}

/** The software driver that a Chromium brings along. */
function swiftShader(chromium: string): WebGpuDevice | null {
  const own = existsSync(chromium) ? [dirname(realpathSync(chromium))] : [];
  for (const folder of [...own, '/usr/lib/chromium', '/opt/google/chrome']) {
    const icd = join(folder, 'vk_swiftshader_icd.json');
    if (!existsSync(icd)) continue;
    const path = [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
    const env = { VK_ICD_FILENAMES: icd, LD_LIBRARY_PATH: path, GLINTHAWK_TEST_ADAPTER: 'swiftshader' };
    const adapter = probeAdapter(env);
    if (adapter) return { description: `${adapter.name} (software, from Chromium; no lavapipe to be had)`, env };
  }
  return null;
}

export function ensureTestDevices(): TestDevices {
  const chromium = ensureChromium();
  const webgpu = ensureWebGpu(chromium);
  say(`Chromium is ${chromium} (SwiftShader inside)`);
  say(`WebGPU in Node is ${webgpu.description}`);
  return {
    chromium,
    webgpu: webgpu.description,
    env: { ...webgpu.env, GLINTHAWK_CHROMIUM: chromium, GLINTHAWK_REQUIRE_WEBGPU: '1' },
  };
}
