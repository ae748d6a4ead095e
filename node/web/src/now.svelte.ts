// What the node says now. It tells the page of every change over a WebSocket, so that a point that was lost shows within the
// second; when that breaks, the page connects again until it succeeds, and says meanwhile that it knows nothing new.

import type { News, State } from './api/shapes';
import { wait } from './room/backoff';

/** The node says something each ten seconds even if nothing changes. One that is silent for longer is gone. */
const SILENCE_MS = 25_000;
/** A connection that is back within this time was not worth a word. */
const UNSAID_MS = 2000;

class Now {
  state = $state.raw<State | null>(null);
  /** This browser's clock when the node was last heard of, if it does not answer now. */
  lost = $state<number | null>(null);
  /** The time, to the second. */
  at = $state(Date.now());

  /** How far the node's clock is ahead of this browser's. */
  #ahead = 0;
  #socket: WebSocket | null = null;
  #heard = 0;
  #down: number | null = null;
  #tries = 0;

  start(): void {
    setInterval(() => this.#tick(), 1000);
    // A machine that slept finds its connection dead: it is tried at once and not at the next turn.
    const awake = () => {
      this.#tick();
      if (!document.hidden && this.#socket === null) this.#connect();
    };
    document.addEventListener('visibilitychange', awake);
    addEventListener('online', awake);
    this.#connect();
  }

  /** A moment of the node's clock by this browser's. */
  here(ms: number): number {
    return ms - this.#ahead;
  }

  #tick(): void {
    this.at = Date.now();
    if (this.#socket && this.#heard && this.at - this.#heard > SILENCE_MS) this.#socket.close();
    if (this.#down !== null && this.at - this.#down > UNSAID_MS) this.lost = this.#down;
  }

  #connect(): void {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/api/live`);
    this.#socket = socket;
    this.#heard = Date.now();
    socket.addEventListener('message', ({ data }) => {
      const news = JSON.parse(String(data)) as News;
      if (news.type !== 'state' || socket !== this.#socket) return;
      this.#heard = Date.now();
      this.#ahead = news.state.now_ms - this.#heard;
      this.#tries = 0;
      this.#down = null;
      this.lost = null;
      this.state = news.state;
    });
    socket.addEventListener('close', () => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.#down ??= Date.now();
      setTimeout(() => {
        if (this.#socket === null) this.#connect();
      }, wait(this.#tries++));
    });
  }
}

export const now = new Now();
