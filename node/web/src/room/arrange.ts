// Which points are shown large and which small, and where on the screen each of them is. Whoever the room chose by hand is
// large, else whoever the automatic choice found, else the chair.
//
// Places are computed and not left to the flow of the page, so that a picture that becomes large is the same element
// in another place: its connection, its sound and its last picture stay as they are.

export type Layout = 'speaker' | 'grid' | 'pair';

export interface Seen {
  number: number;
  central: boolean;
  me: boolean;
}

export interface Choice {
  layout: Layout;
  /** Chosen by hand, the latest last. */
  pinned: readonly number[];
  /** Whether whoever speaks is shown large. */
  follow: boolean;
  speaking: number | null;
}

export interface Arrangement {
  large: number[];
  small: number[];
}

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Part of the screen's width that small pictures may take beside large ones, and of its height below them. */
const BESIDE = 0.3;
const BELOW = 0.42;
/** A small picture is never wider than this part of the screen: two points need no more. */
const SMALL = 0.2;
const COLUMNS_MAX = 4;

export function arrange(points: readonly Seen[], choice: Choice): Arrangement {
  const numbers = points.map((point) => point.number);
  if (choice.layout === 'grid') return { large: [], small: numbers };
  const chair = points.find((point) => point.central && !point.me);
  const others = points.filter((point) => !point.me);
  const wished = [
    ...[...choice.pinned].reverse(),
    ...(choice.follow && choice.speaking !== null ? [choice.speaking] : []),
    ...(chair ? [chair.number] : []),
    ...others.map((point) => point.number),
    ...numbers,
  ];
  const large = [...new Set(wished)]
    .filter((number) => numbers.includes(number))
    .slice(0, choice.layout === 'pair' ? 2 : 1)
    // In the order of the session, so that pictures change places only when the choice changes.
    .sort((a, b) => a - b);
  return { large, small: numbers.filter((number) => !large.includes(number)) };
}

/** Where each of them is on a screen of this size, all of it in pixels. */
export function place({ large, small }: Arrangement, width: number, height: number): Map<number, Box> {
  const gap = Math.max(6, Math.round(width / 200));
  const whole = { x: gap, y: gap, width: width - 2 * gap, height: height - 2 * gap };
  if (large.length === 0 || small.length === 0) return grid([...large, ...small], whole, gap);
  const beside = width >= height;
  const strip = beside ? besideLarge(small.length, whole, gap) : belowLarge(small.length, whole, gap);
  const rest = beside
    ? { ...whole, width: whole.width - strip.width - gap }
    : { ...whole, height: whole.height - strip.height - gap };
  return new Map([...grid(large, rest, gap), ...grid(small, strip, gap, strip.columns)]);
}

type Strip = Box & { columns: number };

function besideLarge(count: number, whole: Box, gap: number): Strip {
  const choices = Array.from({ length: COLUMNS_MAX }, (_, n) => n + 1).map((columns) => {
    const rows = Math.ceil(count / columns);
    const tall = (whole.height - (rows - 1) * gap) / rows;
    const tile = Math.min(SMALL * whole.width, (BESIDE * whole.width) / columns, (tall * 16) / 9);
    return { columns, tile, width: columns * tile + (columns - 1) * gap };
  });
  const best = choices.reduce((best, choice) => (choice.tile > best.tile ? choice : best));
  return { ...whole, x: whole.x + whole.width - best.width, width: best.width, columns: best.columns };
}

function belowLarge(count: number, whole: Box, gap: number): Strip {
  const area = { ...whole, height: BELOW * whole.height };
  const across = columns(count, area.width, area.height);
  const rows = Math.ceil(count / across);
  const tile = Math.min((area.width - (across - 1) * gap) / across, ((area.height - (rows - 1) * gap) / rows) * (16 / 9));
  const height = (rows * tile * 9) / 16 + (rows - 1) * gap;
  return { ...whole, y: whole.y + whole.height - height, height, columns: across };
}

/** Pictures of 16:9 side by side in an area, as large as can be, in its middle. */
function grid(numbers: number[], area: Box, gap: number, fixed?: number): Map<number, Box> {
  const across = fixed ?? columns(numbers.length, area.width, area.height);
  const rows = Math.ceil(numbers.length / across);
  const width = Math.min(
    (area.width - (across - 1) * gap) / across,
    ((area.height - (rows - 1) * gap) / rows) * (16 / 9),
  );
  const height = (width * 9) / 16;
  const top = area.y + (area.height - rows * height - (rows - 1) * gap) / 2;
  return new Map(
    numbers.map((number, n) => {
      const [row, column] = [Math.floor(n / across), n % across];
      const inRow = Math.min(across, numbers.length - row * across);
      const left = area.x + (area.width - inRow * width - (inRow - 1) * gap) / 2;
      return [number, { x: left + column * (width + gap), y: top + row * (height + gap), width, height }];
    }),
  );
}

/** Columns of a grid of `count` pictures of 16:9 on a screen of this shape, so that they are as large as can be. */
export function columns(count: number, width: number, height: number): number {
  let best = 1;
  let largest = 0;
  for (let across = 1; across <= count; across += 1) {
    const down = Math.ceil(count / across);
    const tile = Math.min(width / across, ((height / down) * 16) / 9);
    if (tile >= largest) [best, largest] = [across, tile];
  }
  return best;
}
