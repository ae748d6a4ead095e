// Light or dark: as the system says, unless somebody chose at this browser.

import { recall, remember } from './memory';

export type Theme = 'auto' | 'light' | 'dark';

const THEMES: readonly Theme[] = ['auto', 'light', 'dark'];
const system = matchMedia('(prefers-color-scheme: dark)');

let chosen = $state<Theme>(THEMES.find((theme) => theme === recall('theme')) ?? 'auto');

export function theme(): Theme {
  return chosen;
}

/** The next of the three, for a button that goes round. */
export function turn(): void {
  chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length] ?? 'auto';
  remember('theme', chosen);
  apply();
}

export function apply(): void {
  const dark = chosen === 'dark' || (chosen === 'auto' && system.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
}

system.addEventListener('change', apply);
