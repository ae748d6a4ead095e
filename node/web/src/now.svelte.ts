// What the node says now, asked each second, and whether it answers at all.
//
// The node's clock may differ from this browser's; what the page says about times follows the node's (`at`).

import { get } from './api/ask';
import type { Status } from './api/shapes';

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;

class Now {
  status = $state.raw<Status | null>(null);
  /** This browser's clock when the node stopped answering. */
  lost = $state<number | null>(null);
  /** The time, to the second. */
  at = $state(Date.now());

  #asking = false;

  start(): void {
    setInterval(() => void this.#tick(), EVERY_MS);
    // A machine that slept comes back at once and not at the next turn.
    document.addEventListener('visibilitychange', () => void this.#tick());
    void this.#tick();
  }

  /** Asks at once, after something was done. */
  again(): Promise<void> {
    return this.#tick();
  }

  async #tick(): Promise<void> {
    this.at = Date.now();
    if (this.#asking || document.hidden) return;
    this.#asking = true;
    try {
      this.status = await get<Status>('/api/status', PATIENCE_MS);
      this.lost = null;
    } catch {
      this.lost ??= Date.now();
    }
    this.#asking = false;
  }
}

export const now = new Now();
