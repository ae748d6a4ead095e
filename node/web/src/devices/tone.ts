// A short tone, to hear whether the chosen speaker works.

const HERTZ = 440;
const SECONDS = 1.2;

/** Whether this browser can play to a speaker of choice. */
export const canChooseSpeaker = 'setSinkId' in HTMLMediaElement.prototype;

export async function playTone(speaker: string): Promise<void> {
  const context = new AudioContext();
  const target = context.createMediaStreamDestination();
  const gain = context.createGain();
  const oscillator = context.createOscillator();
  oscillator.frequency.value = HERTZ;
  const start = context.currentTime;
  // Swells and fades, so that it does not click.
  gain.gain.setValueAtTime(0, start);
  gain.gain.linearRampToValueAtTime(0.25, start + 0.08);
  gain.gain.setValueAtTime(0.25, start + SECONDS - 0.3);
  gain.gain.linearRampToValueAtTime(0, start + SECONDS);
  oscillator.connect(gain).connect(target);
  const element = new Audio();
  element.srcObject = target.stream;
  try {
    if (canChooseSpeaker && speaker) await element.setSinkId(speaker);
    oscillator.start(start);
    oscillator.stop(start + SECONDS);
    await element.play();
    await new Promise((done) => setTimeout(done, SECONDS * 1000 + 200));
  } finally {
    element.srcObject = null;
    await context.close();
  }
}
