// How loud a stream is, in dBFS, some times a second: the root mean square of the last samples. A timer and not animation
// frames, so that it costs the same however fast the screen is.

/** What silence is told as. */
export const FLOOR_DB = -100;

export class Meter {
  #context = new AudioContext();
  #timer: number;

  constructor(stream: MediaStream, every: number, heard: (level: number) => void) {
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 2048;
    this.#context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.#timer = window.setInterval(() => {
      // Without a gesture browsers start it asleep.
      if (this.#context.state === 'suspended') void this.#context.resume();
      analyser.getFloatTimeDomainData(samples);
      heard(loudness(samples));
    }, every);
  }

  stop(): void {
    clearInterval(this.#timer);
    void this.#context.close();
  }
}

export function loudness(samples: Float32Array): number {
  const sum = samples.reduce((sum, sample) => sum + sample * sample, 0);
  return Math.max(FLOOR_DB, 10 * Math.log10(sum / samples.length || 1e-10));
}
