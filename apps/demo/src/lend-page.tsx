/** The page of a tab that is lent to a job elsewhere. Nothing of the engine, of models or of the visualisation is loaded here. */
import { effect, type Signal, signal } from '@preact/signals';
import { render } from 'preact';
import { Lender, type LendStatus } from './lend/lender.ts';
import { lendTitle } from './state/lend-figures.ts';
import { addNotice, dismissNotice, type Notice, noticeOfThrown } from './state/notices.ts';
import type { Theme } from './state/preferences.ts';
import { Footer } from './ui/footer.tsx';
import { Header } from './ui/header.tsx';
import { LendPanel } from './ui/lend-panel.tsx';
import { Notices } from './ui/notices.tsx';

export function renderLendPage(root: HTMLElement, theme: Signal<Theme>): void {
  const lender = new Lender();
  const status = signal<LendStatus>(lender.status);
  const notices = signal<readonly Notice[]>([]);
  const tellThrown = (thrown: unknown): void => {
    notices.value = addNotice(notices.value, noticeOfThrown(thrown), performance.now());
  };
  const dismiss = (id: number): void => {
    notices.value = dismissNotice(notices.value, id);
  };
  lender.subscribe((latest) => {
    status.value = latest;
  });
  effect(() => {
    document.title = lendTitle(status.value);
  });

  function LendPage() {
    const { lending } = status.value;
    return (
      <>
        <Header theme={theme} status={lending ? 'This tab is lent.' : 'This tab is not lent yet.'} />
        <main>
          <Notices app={{ notices, dismiss }} />
          <LendPanel lender={lender} status={status} tellThrown={tellThrown} />
        </main>
        <Footer />
      </>
    );
  }
  render(<LendPage />, root);
}
