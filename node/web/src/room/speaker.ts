// Who speaks: whoever is clearly heard, and stays it through the pauses between words. Levels are dBFS by the points' numbers.

/** A voice at a table microphone is above this, a room's noise below. */
export const VOICE_DB = -42;
/** Somebody else must speak this long before he is shown: a cough is no speech. */
const TAKES_MS = 700;
/** Whoever spoke last stays for this long; people breathe. */
const KEEPS_MS = 2500;

export class Speaker {
  /** Who speaks, or spoke until a moment ago. */
  now: number | null = null;
  #heard = 0;
  #next: { number: number; since: number } | null = null;

  /** Takes the levels at `at`, in milliseconds that only rise, and says who speaks. */
  hear(at: number, levels: ReadonlyMap<number, number>): number | null {
    let loudest: number | null = null;
    for (const [number, level] of levels) {
      if (level > VOICE_DB && (loudest === null || level > (levels.get(loudest) ?? -Infinity))) loudest = number;
    }
    const own = this.now === null ? undefined : levels.get(this.now);
    if (own !== undefined && own > VOICE_DB) this.#heard = at;
    if (loudest === null || loudest === this.now) {
      this.#next = null;
    } else if (this.#next?.number !== loudest) {
      this.#next = { number: loudest, since: at };
    } else if (at - this.#next.since >= TAKES_MS) {
      this.now = loudest;
      this.#heard = at;
      this.#next = null;
    }
    if (this.now !== null && at - this.#heard > KEEPS_MS) this.now = null;
    return this.now;
  }
}
