// How long to wait before something is tried again: longer each time, up to a bound, and never in step with others.

const FIRST_MS = 500;
const LONGEST_MS = 8000;

/** The wait after `tries` failures in a row; `chance` is from 0 to 1. */
export function wait(tries: number, chance = Math.random()): number {
  const longest = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(tries, 10));
  return longest * (0.75 + chance / 4);
}
