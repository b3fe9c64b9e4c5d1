// The remembered theme before the first paint; src/state/preferences.ts takes over.
try {
  const theme = localStorage.getItem('glinthawk.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the system's theme it is.
}
