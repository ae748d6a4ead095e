// Moments, lengths and sizes as people here write them: dd/MM/yyyy HH:mm:ss, 24 hours, in the zone of this machine.

const two = (n: number) => String(n).padStart(2, '0');

export function clock(ms: number): string {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function date(ms: number): string {
  const at = new Date(ms);
  return `${two(at.getDate())}/${two(at.getMonth() + 1)}/${at.getFullYear()}`;
}

export function moment(ms: number): string {
  const at = new Date(ms);
  return `${date(ms)} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

/** A clock time, with its day if that is not today's. */
export function since(ms: number, now: number): string {
  return date(ms) === date(now) ? clock(ms) : `${clock(ms)} ${date(ms)}`;
}

/** How long something lasts: 1:02:03. */
export function lasting(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

export function size(bytes: number, language: string): string {
  let n = bytes;
  let unit = 0;
  while (n >= 1000 && unit < UNITS.length - 1) {
    n /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || n >= 100 ? 0 : 1;
  return `${n.toLocaleString(language, { maximumFractionDigits: digits })} ${UNITS[unit]}`;
}
