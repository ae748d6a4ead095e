import { expect, test } from 'vitest';
import { arrange, columns, place, type Choice } from './arrange';

const points = [
  { number: 0, central: true, me: false },
  { number: 1, central: false, me: true },
  { number: 2, central: false, me: false },
];
const plain: Choice = { layout: 'speaker', pinned: [], follow: false, speaking: null };

test('the chair is large by default, a pinned point before it, a speaker only when followed', () => {
  expect(arrange(points, plain)).toEqual({ large: [0], small: [1, 2] });
  expect(arrange(points, { ...plain, speaking: 2 }).large).toEqual([0]);
  expect(arrange(points, { ...plain, speaking: 2, follow: true }).large).toEqual([2]);
  expect(arrange(points, { ...plain, pinned: [1], speaking: 2, follow: true }).large).toEqual([1]);
});

test('who chairs sees somebody else large', () => {
  const chairs = points.map((point) => ({ ...point, me: point.central }));
  expect(arrange(chairs, plain).large).toEqual([1]);
});

test('a pair holds the last two choices, and a point that is gone is no choice', () => {
  expect(arrange(points, { ...plain, layout: 'pair', pinned: [9, 2] }).large).toEqual([0, 2]);
  expect(arrange(points, { ...plain, layout: 'pair', pinned: [1, 2] }).large).toEqual([1, 2]);
});

test('a grid uses the screen', () => {
  expect(arrange(points, { ...plain, layout: 'grid' })).toEqual({ large: [], small: [0, 1, 2] });
  expect([1, 2, 4, 9, 16].map((count) => columns(count, 1920, 1080))).toEqual([1, 2, 2, 3, 4]);
  expect(columns(3, 400, 900)).toBe(1);
});

test('whatever the screen and however many points, every picture is on it and none over another', () => {
  for (const [width, height] of [[1366, 640], [1920, 1000], [3840, 2100], [390, 700], [1000, 1000]] as const) {
    for (const count of [1, 2, 3, 7, 16, 40]) {
      for (const layout of ['speaker', 'grid', 'pair'] as const) {
        const many = Array.from({ length: count }, (_, number) => ({ number, central: number === 0, me: number === 1 }));
        const boxes = [...place(arrange(many, { ...plain, layout }), width, height).values()];
        const what = `${count} on ${width}x${height} as ${layout}`;
        expect(boxes.length, what).toBe(count);
        for (const [n, box] of boxes.entries()) {
          expect(box.x >= 0 && box.y >= 0 && box.x + box.width <= width + 0.1, what).toBe(true);
          expect(box.y + box.height <= height + 0.1 && box.width > 20, what).toBe(true);
          for (const other of boxes.slice(n + 1)) {
            const apart =
              box.x + box.width <= other.x + 0.1 ||
              other.x + other.width <= box.x + 0.1 ||
              box.y + box.height <= other.y + 0.1 ||
              other.y + other.height <= box.y + 0.1;
            expect(apart, what).toBe(true);
          }
        }
      }
    }
  }
});
