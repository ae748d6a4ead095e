// The page as people meet it, against three nodes that run: page.mjs CONSOLE OTHER CHAIR ADMIN, the pages of a point and of
// another, and the one-time passwords of a chair and an administrator at the first.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { check, launch, until } from './browser.mjs';

const [console_, other, chairFirst, adminFirst] = process.argv.slice(2);
const PASSWORD = 'con trâu đi trước';
const TITLE = 'Tiếp công dân định kỳ tháng 11';
const PATHS = ['/', '/thiet-bi', '/ban-chu-tri', '/van-hanh'];
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const browser = await launch(['--autoplay-policy=no-user-gesture-required']);
const complaints = [];

/** A window of somebody who has not been here before. */
async function visitor(language = 'vi', colorScheme = 'light', width = 1366, height = 768) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, permissions: ['camera', 'microphone'] });
  await context.addInitScript((language) => localStorage.setItem('diemcau-language', language), language);
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on('pageerror', (error) => complaints.push(`${page.url()}: ${error.message}`));
  page.on('console', (message) => {
    // That nobody is logged in yet, that a password was wrong, and that the node let go of a connection first when a session ended,
    // browsers call errors too.
    const usual = message.text().includes('401') || /\/api\/wh[ei]p\//.test(message.location().url);
    if (message.type() === 'error' && !usual) complaints.push(`${page.url()}: ${message.text()}`);
  });
  return page;
}

/** What axe-core finds that keeps people out. */
async function accessible(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ').slice(0, 300)}`);
  check(told.length === 0, `${what}: ${told.join('\n')}`);
}

/** Nothing is wider than the window, and no text is a hole. */
async function whole(page, what) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(wide <= 0, `${what} is ${wide} pixels wider than the window`);
  const text = await page.evaluate(() => document.body.innerText);
  check(!/undefined|NaN|\[object|=>/.test(text), `${what} has a hole in its text: ${text}`);
}

async function enter(page, name, first) {
  await page.goto(new URL('/ban-chu-tri', console_).href);
  await page.getByLabel('Tên đăng nhập').fill(name);
  await page.getByLabel('Mật khẩu', { exact: true }).fill('không phải mật khẩu này');
  await page.getByRole('button', { name: 'Đăng nhập' }).click();
  await page.getByText('Tên hoặc mật khẩu không đúng.').waitFor();
  await page.getByLabel('Mật khẩu', { exact: true }).fill(first);
  await page.keyboard.press('Enter');
  await page.getByLabel('Mật khẩu đang dùng').fill(first);
  await page.getByLabel('Mật khẩu mới', { exact: true }).fill(PASSWORD);
  await page.getByLabel('Nhập lại mật khẩu mới').fill(`${PASSWORD}!`);
  await page.getByText('Hai lần nhập không giống nhau.').waitFor();
  await page.getByLabel('Nhập lại mật khẩu mới').fill(PASSWORD);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Đăng xuất' }).waitFor();
}

async function everyPageIsFitForPeople() {
  for (const [language, colors, width, height] of [
    ['vi', 'light', 1366, 768],
    ['en', 'dark', 1920, 1080],
    ['vi', 'dark', 360, 740],
  ]) {
    const page = await visitor(language, colors, width, height);
    for (const path of [...PATHS, '/khong-co']) {
      await page.goto(new URL(path, console_).href);
      await page.locator('h1').waitFor();
      await page.getByText(language === 'vi' ? 'Đang hỏi máy' : "Asking this point's machine").waitFor({ state: 'detached' });
      const what = `${path} in ${language}, ${colors}, ${width} wide`;
      check((await page.locator('html').getAttribute('lang')) === language, `${what} says its language`);
      await whole(page, what);
      await accessible(page, what);
    }
    await page.context().close();
  }
}

async function theLanguageIsChosenAndRemembered() {
  const page = await visitor();
  await page.goto(console_);
  await page.evaluate(() => localStorage.clear());
  await page.reload();
  await page.getByText('Chưa có buổi tiếp nào đang diễn ra').waitFor();
  await page.getByRole('button', { name: 'English' }).click();
  await page.getByText('No session is running').waitFor();
  check((await page.evaluate(() => localStorage.getItem('diemcau-language'))) === 'en', 'the language is remembered');
  await page.context().close();
}

async function aChairHoldsASession() {
  const room = await visitor();
  await room.goto(other);
  await room.getByText('Chưa có buổi tiếp nào đang diễn ra').waitFor();
  const chair = await visitor();
  await enter(chair, 'lan', chairFirst);
  const start = chair.getByRole('button', { name: 'Bắt đầu buổi tiếp' });
  await chair.getByLabel('Chọn tất cả').uncheck();
  check(await start.isDisabled(), 'a session needs another point');
  await chair.getByLabel('Chọn tất cả').check();
  await chair.getByLabel('Tên buổi tiếp').fill(TITLE);
  await accessible(chair, 'starting a session');
  await start.click();
  await chair.getByText('đang tham gia').nth(2).waitFor();
  await chair.getByText('UBND phường Sa Đéc vào buổi tiếp').waitFor();
  await whole(chair, 'the desk in a session');
  await accessible(chair, 'the desk in a session');

  // The other room was touched by nobody. The chair's camera and microphone are those of the chair's browser.
  await room.getByRole('heading', { name: TITLE }).waitFor();
  await room.getByText('Đang ghi âm, ghi hình').waitFor();
  const moving = () =>
    room.evaluate(() => {
      const videos = [...document.querySelectorAll('video')].filter((video) => video.srcObject);
      return videos.filter((video) => video.videoWidth > 0 && video.getVideoPlaybackQuality().totalVideoFrames > 20).length;
    });
  await until('both other rooms move', 60_000, async () => (await moving()) >= 2);
  await accessible(room, 'the room in a session');
  const tile = room.getByRole('group', { name: 'UBND phường Sa Đéc' });
  const before = (await tile.boundingBox()).width;
  await tile.getByRole('button').press('Enter');
  await until('a picture that is chosen by keyboard becomes large', 5000, async () => (await tile.boundingBox()).width > 2 * before);

  // What the chair writes down stands in the journal, and whom the chair sends out is gone at once.
  await chair.getByLabel('Loại').selectOption('Sự cố');
  await chair.getByLabel('Điểm cầu liên quan').selectOption('UBND phường Sa Đéc');
  await chair.getByLabel('Nội dung').fill('  Mất điện 10 phút ');
  await chair.getByRole('button', { name: 'Ghi', exact: true }).click();
  await chair.getByText('Sự cố tại UBND phường Sa Đéc: Mất điện 10 phút (lan ghi)').waitFor();
  const question = chair.getByRole('dialog');
  await chair.getByRole('button', { name: 'Đưa ra khỏi buổi tiếp: UBND phường Sa Đéc' }).click();
  await accessible(chair, 'the question before a removal');
  await question.getByRole('button', { name: 'Đưa ra' }).click();
  await chair.getByText('UBND phường Sa Đéc bị đưa ra khỏi buổi tiếp: theo lệnh của chủ trì').waitFor();
  await until('its place is gone from the other room', 30_000, async () => (await tile.count()) === 0);
  await chair.getByRole('button', { name: 'Đưa ra khỏi buổi tiếp: UBND phường Sa Đéc' }).waitFor({ state: 'detached' });

  await chair.getByRole('button', { name: 'Kết thúc buổi tiếp' }).click();
  await accessible(chair, 'the question before the end');
  await question.getByRole('button', { name: 'Quay lại' }).click();
  await question.waitFor({ state: 'detached' });
  await chair.getByRole('button', { name: 'Kết thúc buổi tiếp' }).click();
  await question.getByRole('button', { name: 'Kết thúc buổi tiếp' }).click();
  await chair.getByText('Buổi tiếp đã kết thúc.').waitFor();
  await room.getByText('Chưa có buổi tiếp nào đang diễn ra').waitFor();
  await chair.context().close();
  await room.context().close();
}

async function anAdministratorReadsWhoDidWhat() {
  const page = await visitor();
  await enter(page, 'quản', adminFirst);
  await page.getByRole('link', { name: 'Vận hành' }).click();
  const log = page.getByRole('region', { name: 'Nhật ký truy cập' }).last();
  await log.getByText('điều khiển buổi tiếp').first().waitFor();
  await page.getByLabel('Ai', { exact: true }).fill('lan');
  await page.getByRole('button', { name: 'Lọc' }).click();
  await until('only the chair is left', 10_000, async () => (await log.getByText('tài khoản: quản').count()) === 0);
  await page.getByLabel('Chỉ những việc bị từ chối').check();
  await page.getByLabel('Ai', { exact: true }).fill('127.0.0.1');
  await page.getByRole('button', { name: 'Lọc' }).click();
  await log.getByText('từ chối: wrong name or password').first().waitFor();
  await whole(page, 'the access log');
  await accessible(page, 'the access log');
  await page.context().close();
}

try {
  await everyPageIsFitForPeople();
  await theLanguageIsChosenAndRemembered();
  await aChairHoldsASession();
  await anAdministratorReadsWhoDidWhat();
  check(complaints.length === 0, `the browser complained:\n${complaints.join('\n')}`);
} finally {
  await browser.close();
}
