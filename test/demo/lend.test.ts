/**
 * A job of `glinthawk run` whose attention is at two lent tabs: one is closed half-way, and the results are those of a run that
 * nobody disturbed.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright';
import { expect, it } from 'vitest';
import { byId, glinthawk, type Running, readLines, runArguments, start, temporaryFolder } from '../e2e/command.ts';
import { describeInChromium } from './chromium.ts';

/** Some seconds of work for both tabs: greedy and seeded. */
const JOB = Array.from({ length: 40 }, (_, i) => {
  const prompt = ['Once upon a time', 'The little dragon', 'One day Tom', 'In the garden'][i % 4];
  const rest = { max_tokens: 48 + (i % 9) * 16, temperature: i % 2, seed: i, ignore_eos: true, return_token_ids: true };
  return JSON.stringify({ custom_id: `r${i}`, prompt, ...rest });
}).join('\n');

async function lendTab(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Lend', exact: true }).click();
  await statusReaches(page, /^(Connected|Lending)/);
}

async function statusReaches(page: Page, pattern: RegExp): Promise<void> {
  const status = page.getByRole('status', { name: 'Lending status' });
  await expect.poll(() => status.textContent(), { timeout: 60_000, message: 'the lending status' }).toMatch(pattern);
}

/** How often the tab attended, as it tells. */
async function attends(page: Page): Promise<number> {
  const term = page.getByRole('term').filter({ hasText: /^Attends$/ });
  const told = await term.locator('xpath=following-sibling::dd').textContent();
  return Number((told ?? '').replaceAll(',', ''));
}

/** Resolves when so many requests are in the journal. */
async function finished(output: string, requests: number, running: Running): Promise<void> {
  const journal = `${output}.journal`;
  const lines = () => (existsSync(journal) ? readFileSync(journal, 'utf8').split('\n').length - 2 : 0);
  await expect
    .poll(lines, { timeout: 60_000, interval: 10, message: 'finished requests' })
    .toBeGreaterThanOrEqual(requests);
  expect(running.child.exitCode, 'the job is still under way').toBeNull();
}

describeInChromium('a job at two lent tabs', (rig) => {
  it('has the results of an undisturbed one, though one tab is closed half-way', async () => {
    const output = join(temporaryFolder(), 'out.jsonl');
    // Few sequences at once, so that there is work left to place when the second tab comes.
    const few = ['--micro-batch-rows', '4', '--in-flight', '2'];
    const running = start(runArguments('-', output, '--attention', 'ws-listen://127.0.0.1:0', ...few), { stdin: JOB });
    const [, address = ''] = await running.saw(/lend a tab: (\S+)/);
    // The job serves the page itself where it was built, as `npm test` does; the other tab has it from elsewhere.
    const own = process.env.GLINTHAWK_DEMO_PAGE !== undefined && address.startsWith('http') ? address : null;
    const { host, token } = linkOf(address);
    const elsewhere = `#lend=ws://${host}&token=${token}`;
    const first = await rig().visit(own === null ? { path: elsewhere } : { url: own });
    const second = await rig().visit({ path: elsewhere, isolated: false });
    for (const { page, allow } of [first, second]) {
      allow(`ws://${host}`);
      await lendTab(page);
    }
    await running.saw(/joined .*: 2 nodes/);
    await finished(output, 10, running);
    for (const { page } of [first, second]) {
      await statusReaches(page, /^Lending: 1 of 1 worker serving the job/);
      expect(await attends(page)).toBeGreaterThan(0);
    }
    await second.page.close();

    const { status, stderr } = await running.ended;
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/nodes lost +1/);
    await statusReaches(first.page, /^(?!Lending)/);

    const undisturbed = join(temporaryFolder(), 'out.jsonl');
    const other = await glinthawk(runArguments('-', undisturbed), { stdin: JOB });
    expect(other.status, other.stderr).toBe(0);
    expect(byId(readLines(output))).toEqual(byId(readLines(undisturbed)));
  });

  it('says so when the link has the wrong token', async () => {
    const output = join(temporaryFolder(), 'out.jsonl');
    const running = start(runArguments('-', output, '--attention', 'ws-listen://127.0.0.1:0'), { stdin: JOB });
    const { host } = linkOf((await running.saw(/lend a tab: (\S+)/))[1] ?? '');
    const { page, allow } = await rig().visit({ path: `#lend=ws://${host}&token=${'0'.repeat(32)}` });
    allow(`ws://${host}`);
    await page.getByRole('button', { name: 'Lend', exact: true }).click();
    await statusReaches(page, /^The job refused this tab/);
    await page.getByRole('list', { name: 'Workers of this tab' }).getByText(/token/).waitFor();
    running.child.kill('SIGINT');
    await running.ended;
  });
});

/** Where a lend link leads, whether the job serves the page or not. */
function linkOf(address: string): { readonly host: string; readonly token: string } {
  const match = /^(?:https?:\/\/([^/]+)\/#lend|PAGE#lend=wss?:\/\/([^&]+))&token=(\S+)$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  const token = match?.[3];
  if (host === undefined || token === undefined) throw new Error(`no lend link: ${address}`);
  return { host, token };
}
