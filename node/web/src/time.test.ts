import { expect, test } from 'vitest';
import { lasting, moment, since, size } from './time';

test('moments are written as offices here write them', () => {
  const at = new Date(2026, 10, 5, 7, 4, 9).getTime();
  expect(moment(at)).toBe('05/11/2026 07:04');
  expect(since(at, at + 60_000)).toBe('07:04:09');
  expect(since(at, at + 24 * 3_600_000)).toBe('07:04:09 05/11/2026');
});

test('lengths and sizes are short', () => {
  expect(lasting(3_723_900)).toBe('1:02:03');
  expect(lasting(-5)).toBe('0:00:00');
  expect([999, 1_266, 133_000_000, 271_500_000_000].map((bytes) => size(bytes, 'vi'))).toEqual([
    '999 B',
    '1,3 kB',
    '133 MB',
    '272 GB',
  ]);
});
