/** The demo: makes the page's parts, ties them together, and keeps the tab's title and the browser's question on leaving. */
import { computed, effect, type Signal } from '@preact/signals';
import { render } from 'preact';
import { App } from './app.tsx';
import { EngineClient } from './engine/client.ts';
import { SampleLog } from './see/sample-log.ts';
import { SeeItWork } from './see/see-it-work.tsx';
import { registerServiceWorker } from './service-worker/register.ts';
import { type AppState, createAppState } from './state/app-state.ts';
import { createDownloads } from './state/downloads.ts';
import { watchOtherTabs } from './state/other-tabs.ts';
import { titleText } from './state/page-title.ts';
import { recall, remember, type Theme } from './state/preferences.ts';
import { storeTierSettings } from './state/tier-settings.ts';
import { openModelStore } from './store/model-store.ts';

export async function renderDemoPage(root: HTMLElement, theme: Signal<Theme>): Promise<void> {
  const secure = location.protocol === 'https:';
  const engine = new EngineClient();
  const app = createAppState(engine, {
    secure,
    storedTiers: recall('tiers'),
    keepTiers: (settings) => remember('tiers', storeTierSettings(settings)),
  });
  const downloads = createDownloads(await openModelStore(), app.tellThrown);
  const otherTabs = watchOtherTabs();
  const log = new SampleLog();
  engine.subscribe((event) => log.take(event));

  keepTitle(app);
  askBeforeLeaving(app);
  effect(() => otherTabs.hold(app.engine.value.tiers !== null));
  engine.send({ type: 'probe' });

  void registerServiceWorker();

  const see = seeItWork(app, log);
  render(
    <App app={app} log={log} downloads={downloads} otherTabs={otherTabs} theme={theme} secure={secure} see={see} />,
    root,
  );
}

function seeItWork(app: AppState, log: SampleLog) {
  const tiers = computed(() => app.engine.value.tiers);
  const busy = computed(() => {
    const { phase } = app.engine.value;
    return phase === 'opening' || phase === 'retiering' || app.running.value;
  });
  return (
    <SeeItWork
      log={log}
      tiers={tiers}
      busy={busy}
      onRetier={app.retier}
      onLatency={app.setLatency}
      onLoad={app.generateLoad}
      onStop={app.stopLoad}
      onOpen={() => app.open({ kind: 'example' })}
    />
  );
}

function keepTitle(app: AppState): void {
  effect(() => {
    document.title = titleText(app.run.value, app.batch.value);
  });
}

/** A batch's results exist in this tab only. */
function askBeforeLeaving(app: AppState): void {
  const ask = (event: BeforeUnloadEvent): void => event.preventDefault();
  effect(() => {
    const batch = app.batch.value;
    if (batch !== null && batch.ended === null) addEventListener('beforeunload', ask);
    else removeEventListener('beforeunload', ask);
  });
}
