// Everything about this node, for the pages that people work with: asked again and again while one of them is open.

import { get } from './api/ask';
import type { Status } from './api/shapes';

const EVERY_MS = 2000;

class Asked {
  now = $state.raw<Status | null>(null);

  #users = 0;
  #timer: number | undefined;

  /** Asks from now on, until the function that it gives is called. */
  use(): () => void {
    this.#users += 1;
    if (this.#users === 1) void this.#ask();
    return () => {
      this.#users -= 1;
      if (this.#users === 0) clearTimeout(this.#timer);
    };
  }

  async #ask(): Promise<void> {
    if (!document.hidden) {
      try {
        this.now = await get<Status>('/api/status', 5000);
      } catch {
        // That the node does not answer is said for every page in one place.
      }
    }
    clearTimeout(this.#timer);
    if (this.#users > 0) this.#timer = window.setTimeout(() => void this.#ask(), EVERY_MS);
  }
}

export const status = new Asked();
