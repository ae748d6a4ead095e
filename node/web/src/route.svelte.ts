// Which page is shown, by the address's path. The node answers every path with the same app, so an address can be typed,
// kept as a bookmark and reloaded.

export const PATHS = {
  room: '/',
  devices: '/thiet-bi',
  desk: '/ban-chu-tri',
  operator: '/van-hanh',
} as const;

export type Page = keyof typeof PATHS;

let shown = $state<Page | null>(read());

function read(): Page | null {
  const path = location.pathname.replace(/(.)\/+$/, '$1');
  const pages = Object.keys(PATHS) as Page[];
  return pages.find((page) => PATHS[page] === path) ?? null;
}

/** Null for an address that leads nowhere. */
export function page(): Page | null {
  return shown;
}

export function go(to: Page): void {
  if (location.pathname !== PATHS[to]) history.pushState(null, '', PATHS[to]);
  shown = to;
  scrollTo(0, 0);
}

/** For links: goes there without loading the app again, and leaves new tabs and windows to the browser. */
export function follow(event: MouseEvent, to: Page): void {
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(to);
}

addEventListener('popstate', () => {
  shown = read();
});
