// Whether this page may be heard. Browsers play sound only after somebody has touched the page, unless they were told otherwise;
// until then pictures run without it, and one large button asks for the touch.

class Sound {
  blocked = $state(false);

  /** Plays what is in `element`, silently if it must be. */
  async play(element: HTMLMediaElement): Promise<void> {
    element.muted = this.blocked;
    try {
      await element.play();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError') return;
      this.blocked = true;
      element.muted = true;
      await element.play().catch(() => {});
    }
  }

  /** Somebody touched the button. */
  allow(): void {
    this.blocked = false;
  }
}

export const sound = new Sound();
