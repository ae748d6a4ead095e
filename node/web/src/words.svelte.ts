// The language of the page: Vietnamese unless somebody chose English at this browser. Every text stands in `words/`, once
// per language; English has the type of the Vietnamese, so a text that is missing does not compile.

import { recall, remember } from './memory';
import { en } from './words/en';
import { vi, type Words } from './words/vi';

export type Language = 'vi' | 'en';

let chosen = $state<Language>(recall('language') === 'en' ? 'en' : 'vi');

/** The texts in the language that is chosen now. */
export function t(): Words {
  return chosen === 'vi' ? vi : en;
}

export function language(): Language {
  return chosen;
}

export function speak(language: Language): void {
  chosen = language;
  remember('language', language);
}
