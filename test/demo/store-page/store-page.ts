/** The demo's model store without its page, for tests to drive from outside. Built with the page's own configuration. */
import { blobFiles, openModelFiles } from '@glinthawk/model';
import { registerServiceWorker } from '../../../apps/demo/src/service-worker/register.ts';
import { parseModelSource } from '../../../apps/demo/src/store/model-source.ts';
import { openModelStore } from '../../../apps/demo/src/store/model-store.ts';
import { openStoredFiles } from '../../../apps/demo/src/store/stored-files.ts';

const api = { openModelStore, openStoredFiles, parseModelSource, registerServiceWorker, openModelFiles, blobFiles };

declare global {
  interface Window {
    glinthawk: typeof api;
  }
}

window.glinthawk = api;
