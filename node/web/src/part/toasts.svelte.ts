// Short messages about what was just done, each shown for some seconds.

const SHOWN_MS = 6000;
const SHOWN_MAX = 3;

class Toasts {
  shown = $state<{ id: number; text: string }[]>([]);
  #next = 0;

  say(text: string): void {
    const id = this.#next++;
    this.shown = [...this.shown, { id, text }].slice(-SHOWN_MAX);
    setTimeout(() => {
      this.shown = this.shown.filter((toast) => toast.id !== id);
    }, SHOWN_MS);
  }
}

export const toasts = new Toasts();
