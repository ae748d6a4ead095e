// A real browser for the tests, the one that the system has: pages are looked at as people do, with a camera and a microphone
// that Chromium plays itself.

import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const PLACES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
];

/** Starts Chromium with these further flags. */
export async function launch(more = []) {
  const path = PLACES.find((path) => path && existsSync(path));
  if (!path) throw new Error('there is no Chromium: install the package chromium, or say where it is with CHROMIUM');
  return chromium.launch({ executablePath: path, args: [...FLAGS, ...more] });
}

/** Asks until `look` gives something, and fails with `what` after `limit` milliseconds. */
export async function until(what, limit, look) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${limit} ms in vain until ${what}`);
    await new Promise((again) => setTimeout(again, 100));
  }
}

/** Fails with `what` unless `truth`. */
export function check(truth, what) {
  if (!truth) throw new Error(what);
}
