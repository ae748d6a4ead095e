// A refusal as a sentence in the language of the page.

import { Refused } from './api/ask';
import { t } from './words.svelte';

export function said(error: unknown): string {
  if (!(error instanceof Refused)) return t().refused.failed;
  const words: Record<string, string> = t().refused;
  const sentence = words[error.error] ?? t().refused.failed;
  const wait = error.after === null ? '' : ` ${t().again(error.after)}`;
  // What the node decides by its own rules only it can explain.
  const why = ['refused', 'missing', 'failed', 'damaged', 'source'].includes(error.error) && error.reason;
  return sentence + wait + (why ? ` (${error.reason})` : '');
}
