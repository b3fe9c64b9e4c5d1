/**
 * The page's entry point. With the address of a job in the fragment (#lend…) the page lends this tab, and nothing of the engine
 * is loaded; else it is the demo.
 */
import './styles/tokens.css';
import './styles/base.css';
import './styles/page.css';
import './styles/panels.css';
import './styles/cards.css';
import { render } from 'preact';
import { createTheme } from './state/preferences.ts';

async function start(root: HTMLElement): Promise<void> {
  const theme = createTheme();
  const lending = location.hash.startsWith('#lend');
  if (lending) {
    const { renderLendPage } = await import('./lend-page.tsx');
    renderLendPage(root, theme);
  } else {
    const { renderDemoPage } = await import('./demo-page.tsx');
    await renderDemoPage(root, theme);
  }
  // Following a link to a job, or going back from it, changes between the two pages: each begins anew.
  addEventListener('hashchange', () => {
    if (lending || location.hash.startsWith('#lend')) location.reload();
  });
}

const root = document.getElementById('app');
if (root === null) throw new Error('index.html has no #app');
start(root).catch((error: unknown) => {
  render(<main>The page could not start: {String(error)}. Reload it, or try another browser.</main>, root);
});
