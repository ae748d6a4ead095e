import { expect, test } from 'vitest';
import { Speaker } from './speaker';

const levels = (...pairs: [number, number][]) => new Map(pairs);

test('a voice becomes the speaker after a moment, a cough does not', () => {
  const speaker = new Speaker();
  expect(speaker.hear(0, levels([1, -20]))).toBe(null);
  expect(speaker.hear(300, levels([1, -90], [2, -20]))).toBe(null);
  expect(speaker.hear(600, levels([2, -20]))).toBe(null);
  expect(speaker.hear(1000, levels([1, -60], [2, -25]))).toBe(2);
});

test('whoever speaks keeps the floor through pauses and loses it after', () => {
  const speaker = new Speaker();
  for (const at of [0, 800]) speaker.hear(at, levels([3, -20]));
  expect(speaker.hear(3000, levels([3, -80]))).toBe(3);
  expect(speaker.hear(3400, levels([3, -80]))).toBe(null);
});

test('noise is nobody', () => {
  const speaker = new Speaker();
  for (const at of [0, 1000, 2000]) expect(speaker.hear(at, levels([1, -55], [2, -48]))).toBe(null);
});
