/**
 * The demo page as a person meets it: what is on it is found by role and label, never by class or by what the program calls it.
 * Every step waits for what it leads to.
 */
import { readFileSync } from 'node:fs';
import type { Locator, Page } from 'playwright';
import { expect } from 'vitest';
import type { ResultLine } from '../e2e/command.ts';

export interface Tiers {
  readonly dense?: 'WASM' | 'WebGPU';
  readonly mode?: 'one tier' | 'two tiers';
  readonly workers?: number;
  readonly remotes?: readonly { readonly url: string; readonly token?: string }[];
  readonly kv?: 'f32' | 'f16' | 'int8';
  readonly inFlight?: number | 'auto';
}

export interface Sampling {
  readonly temperature?: number;
  readonly maxTokens?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed?: number;
}

const LOAD_MS = 60_000;
const RUN_MS = 90_000;
const NOTICE_MS = 30_000;

export class GlinthawkPage {
  readonly page: Page;
  readonly output: Locator;
  readonly engineStatus: Locator;
  readonly notices: Locator;

  constructor(page: Page) {
    this.page = page;
    this.output = page.getByRole('log', { name: 'Output' });
    this.engineStatus = page.getByRole('status', { name: 'Engine status' });
    this.notices = page.getByRole('region', { name: 'Notices' });
  }

  button(name: string | RegExp): Locator {
    return this.page.getByRole('button', { name, exact: typeof name === 'string' });
  }

  async tab(name: string | RegExp): Promise<void> {
    await this.page.getByRole('tab', { name }).click();
  }

  async reaches(status: RegExp, timeout = LOAD_MS): Promise<void> {
    await expect.poll(() => this.engineStatus.textContent(), { timeout, message: 'the engine status' }).toMatch(status);
  }

  /** Resolves when a notice says it. */
  async notice(pattern: RegExp, timeout = NOTICE_MS): Promise<void> {
    const said = async () => (await this.notices.allInnerTexts()).join('\n');
    await expect.poll(said, { timeout, message: 'the notices' }).toMatch(pattern);
  }

  async dismissNotices(): Promise<void> {
    const dismiss = this.notices.getByRole('button', { name: /^Dismiss/ });
    for (let left = await dismiss.count(); left > 0; left--) await dismiss.first().click();
  }

  async openMore(summary: string): Promise<void> {
    const details = this.page.locator('details', { has: this.page.locator('summary', { hasText: summary }) });
    if ((await details.getAttribute('open')) === null) await details.locator('summary').click();
  }

  /** Sets the tiers and applies them; where a model is open, until they are open again. */
  async setTiers({ dense, mode, workers, remotes, kv, inFlight }: Tiers): Promise<void> {
    const { page } = this;
    const card = page.getByRole('region', { name: 'Tiers' });
    if (dense !== undefined) await card.getByRole('radio', { name: dense }).check();
    if (dense === 'WebGPU') await card.getByRole('checkbox', { name: /software adapter/ }).check();
    if (mode !== undefined) await card.getByRole('radio', { name: new RegExp(`\\(${mode}\\)`) }).check();
    if (remotes !== undefined) {
      const remove = card.getByRole('button', { name: /^Remove remote node/ });
      for (let left = await remove.count(); left > 0; left--) await remove.first().click();
      for (const [i, { url, token }] of remotes.entries()) {
        await card.getByRole('button', { name: 'Add a remote node' }).click();
        const node = card.getByRole('group', { name: `Remote node ${i + 1}` });
        await node.getByLabel('Address').fill(url);
        if (token !== undefined) await node.getByLabel('Token').fill(token);
      }
    }
    if (workers !== undefined) await change(card.getByRole('spinbutton', { name: 'Workers in this tab' }), workers);
    if (kv !== undefined || inFlight !== undefined) await this.openMore('KV cache and micro-batches');
    if (kv !== undefined) await card.getByLabel('KV dtype').selectOption(kv);
    if (inFlight !== undefined) await card.getByLabel('Micro-batches in flight').selectOption(String(inFlight));
    await card.getByRole('button', { name: 'Apply' }).click();
    await this.reaches(/^(Ready|Generating|No model|Nothing)/);
  }

  async setSampling({ temperature, maxTokens, topP, topK, seed }: Sampling): Promise<void> {
    await this.tab('Prompt');
    await this.openMore('Sampling');
    const fields = { Temperature: temperature, 'Max tokens': maxTokens, 'Top-p': topP, 'Top-k': topK, Seed: seed };
    for (const [label, value] of Object.entries(fields)) {
      if (value !== undefined) await change(this.page.getByLabel(label, { exact: true }), value);
    }
  }

  async loadExample(): Promise<void> {
    await this.tab('Example');
    await this.button('Load example').click();
    await this.reaches(/^Ready: tale-1m/);
  }

  /** A model's folder, or its files. */
  async pickFolder(path: string, ready: RegExp): Promise<void> {
    await this.#pick('Choose a folder', path, ready);
  }

  async pickFiles(paths: readonly string[], ready: RegExp): Promise<void> {
    await this.#pick('Choose a .gguf file', paths, ready);
  }

  async #pick(label: string, paths: string | readonly string[], ready: RegExp): Promise<void> {
    await this.tab('From disk');
    await this.page.getByLabel(label).setInputFiles(typeof paths === 'string' ? paths : [...paths]);
    await this.button('Load chosen model').click();
    await this.reaches(ready);
  }

  /** Types a prompt and presses Generate; see `answered`. */
  async ask(prompt: string): Promise<void> {
    await this.tab('Prompt');
    await this.page.getByRole('textbox', { name: /^(Prompt|Message)$/ }).fill(prompt);
    await this.button('Generate').click();
  }

  /** The text of the output once it is finished. */
  async answered(timeout = RUN_MS): Promise<string> {
    const generate = this.page.getByRole('region', { name: 'Generate' });
    await generate.getByText(/(finished|at its length limit|stopped|failed)$/).waitFor({ timeout });
    // The last words are drawn in the frame after.
    await this.frame();
    return (await this.output.textContent()) ?? '';
  }

  /** Until something was written after `prompt`. */
  async writes(prompt: string, characters = 1): Promise<void> {
    const written = async () => {
      const text = (await this.output.textContent()) ?? '';
      return text.startsWith(prompt) ? text.length - prompt.length : 0;
    };
    await expect.poll(written, { timeout: RUN_MS, message: 'text comes' }).toBeGreaterThanOrEqual(characters);
  }

  /** How many tokens the figures beside the output tell. */
  async figures(): Promise<number> {
    const text = await this.page
      .getByRole('region', { name: 'Generate' })
      .getByText(/^[\d,]+ tokens/)
      .textContent();
    return Number((text ?? '').replace(/ tokens.*/, '').replaceAll(',', ''));
  }

  async frame(): Promise<void> {
    await this.page.evaluate(
      () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))),
    );
  }

  /** From now on counts how often the output grows; @returns the lengths that were seen so far. */
  async watchOutput(): Promise<() => Promise<readonly number[]>> {
    const lengths = await this.output.evaluateHandle((element) => {
      const seen: number[] = [];
      new MutationObserver(() => {
        const length = element.textContent?.length ?? 0;
        if (seen.at(-1) !== length) seen.push(length);
      }).observe(element, { childList: true, characterData: true, subtree: true });
      return seen;
    });
    return () => lengths.evaluate((seen) => [...seen]);
  }

  /** Pastes requests and runs them. */
  async runBatch(jsonl: string, options: { readonly skipInvalid?: boolean } = {}): Promise<void> {
    await this.tab('Batch');
    await this.page.getByRole('textbox', { name: /one JSON object a line/ }).fill(jsonl);
    await this.page.getByRole('checkbox', { name: 'Skip invalid lines' }).setChecked(options.skipInvalid ?? false);
    await this.button('Run batch').click();
  }

  /** Until the batch is over, with its results. */
  async batchEnds(how: RegExp = /^Done/, timeout = RUN_MS): Promise<readonly ResultLine[]> {
    await expect
      .poll(() => this.page.getByRole('status', { name: 'Batch status' }).textContent(), {
        timeout,
        message: 'the batch',
      })
      .toMatch(how);
    return this.download(/^Download results/);
  }

  async download(button: RegExp): Promise<readonly ResultLine[]> {
    const coming = this.page.waitForEvent('download');
    await this.button(button).click();
    const text = readFileSync(await (await coming).path(), 'utf8');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as ResultLine);
  }
}

/** Fills a field and leaves it, as a person does. */
async function change(field: Locator, value: number): Promise<void> {
  await field.fill(String(value));
  await field.blur();
}
