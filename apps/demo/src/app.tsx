/**
 * The page. It computes nothing itself: the engine is a worker's, the model store the browser's; see state/app-state.ts.
 *
 * Names that tests and assistive technology go by, with their roles (a tab names its panel, too); keep them:
 *   headings   Glinthawk (1); Model, Tiers, Generate, See it work, Lend this tab (2)
 *   regions    Notices (a region with aria-live), What this is
 *   Model      tabs Example, From disk, "Hub or URL", "Stored" or "Stored (n)"; buttons "Load example", "Unload";
 *              file inputs "Choose a .gguf file", "Choose a folder", then "Load chosen model";
 *              text box "Hub id or URL", buttons Inspect, Download or Resume, "Hub token", list
 *              "Models in this repository", "Stop download", "Not this one";
 *              list "Stored models": buttons "Load NAME", "Delete NAME", "Confirm: delete NAME", "Resume NAME"
 *   Tiers      radios WASM, WebGPU, "Apart (two tiers)", "With dense (one tier)"; number "Workers in this tab";
 *              "Add a remote node" makes a group "Remote node N" with Address and Token, "Remove remote node N";
 *              under "KV cache and micro-batches": "KV dtype", "KV memory, MiB", "Micro-batches in flight",
 *              "Micro-batch rows"; button Apply; check box "Use the software adapter: …"
 *   Generate   tabs Prompt, Batch; text box Prompt (text) or Message (chat); buttons Generate, Stop, "New conversation", Copy;
 *              role=log "Output" (the prompt of a text is part of it); radios Chat, "Text to continue"; under Sampling:
 *              Temperature, "Top-p", "Top-k", "Min-p", "Repetition penalty", Seed, "Max tokens", "Stop at", Instructions;
 *              Batch: text box "Requests, one JSON object a line", file input "Choose a JSONL file", check box
 *              "Skip invalid lines", buttons "Take the example", "Run batch", Stop, "Download results", "Download errors"
 *   Lend       text box "Address of the job", button Continue; with #lend: numbers Workers, select "Memory at most",
 *              buttons Lend, "Stop lending", list "Workers of this tab"
 *   status     role=status "Engine status" (top), "Tier settings", "Batch status", "Lending status"
 */
import { type Signal, useComputed, useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import type { SampleLog } from './see/sample-log.ts';
import type { AppState } from './state/app-state.ts';
import type { Downloads } from './state/downloads.ts';
import { statusText } from './state/engine-state.ts';
import type { LocalModel } from './state/local-files.ts';
import type { OtherTabs } from './state/other-tabs.ts';
import type { Theme } from './state/preferences.ts';
import { DropTarget } from './ui/drop-target.tsx';
import { Footer } from './ui/footer.tsx';
import { GenerateCard } from './ui/generate-card.tsx';
import { Header } from './ui/header.tsx';
import { Hero } from './ui/hero.tsx';
import { LendLink } from './ui/lend-link.tsx';
import { ModelCard } from './ui/model-card.tsx';
import { Notices } from './ui/notices.tsx';
import { TiersCard } from './ui/tiers-card.tsx';

export interface AppProps {
  readonly app: AppState;
  readonly log: SampleLog;
  readonly downloads: Downloads;
  readonly otherTabs: OtherTabs;
  readonly theme: Signal<Theme>;
  readonly secure: boolean;
  /** The visualisation. */
  readonly see: ComponentChildren;
}

export function App({ app, log, downloads, otherTabs, theme, secure, see }: AppProps) {
  const modelTab = useSignal('example');
  const generateTab = useSignal('prompt');
  const picked = useSignal<LocalModel | null>(null);
  const batchText = useSignal('');
  const status = useComputed(() => statusText(app.engine.value, app.running.value));

  return (
    <>
      <a class="skip" href="#generate">
        Skip to Generate
      </a>
      <Header theme={theme} status={status.value} />
      <main>
        <Hero app={app} log={log} otherTabs={otherTabs.count.value} />
        <Notices app={app} />
        <div class="work" id="generate">
          <GenerateCard app={app} tab={generateTab} batchText={batchText} />
          <section class="card see-card" aria-labelledby="see-heading">
            <h2 id="see-heading">See it work</h2>
            {see}
          </section>
          <div class="set-up" id="set-up">
            <ModelCard app={app} downloads={downloads} picked={picked} tab={modelTab} />
            <TiersCard app={app} secure={secure} />
          </div>
        </div>
        <LendLink tellThrown={app.tellThrown} />
      </main>
      <Footer />
      <DropTarget
        onModel={(model) => {
          picked.value = model;
          modelTab.value = 'local';
        }}
        onBatch={(text) => {
          batchText.value = text;
          generateTab.value = 'batch';
        }}
        onFault={app.tellThrown}
      />
    </>
  );
}
