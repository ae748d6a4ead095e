// A point's level in words. The roster's levels are free text, as levels differ from place to place; those that the program
// itself writes have a translation.

import { t } from './words.svelte';

export function level(of: string): string {
  const known: Record<string, string> = t().levels;
  return known[of] ?? of;
}
