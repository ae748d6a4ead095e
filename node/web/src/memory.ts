// What this browser remembers of its users' choices. A browser that forbids it forgets, and the page works all the same.

const PREFIX = 'diemcau-';

export function recall(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

export function remember(name: string, value: string): void {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Chosen for this visit only.
  }
}
