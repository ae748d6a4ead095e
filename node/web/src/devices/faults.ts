// What is wrong with a device, as a sentence.

import { t } from '../words.svelte';
import type { Fault } from './devices.svelte';

export function faultWords(fault: Fault): string {
  return fault.kind === 'other' ? t().devices.wrong.other(fault.what) : t().devices.wrong[fault.kind];
}
