/// <reference types="vite/client" />
/** Makes the page work without a network from the second visit on. Does nothing in development, or where browsers don't allow it. */

/** @returns null where there is no service worker, and when it could not be installed: the page works without */
export async function registerServiceWorker(): Promise<ServiceWorkerRegistration | null> {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return null;
  // What the page loads itself comes first.
  if (document.readyState !== 'complete') {
    await new Promise((resolve) => window.addEventListener('load', resolve, { once: true }));
  }
  try {
    return await navigator.serviceWorker.register(new URL('sw.js', document.baseURI));
  } catch (thrown) {
    console.info('The page will not work offline:', thrown);
    return null;
  }
}
