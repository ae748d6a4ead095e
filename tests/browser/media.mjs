// Three rooms, a browser in each: a picture that shows the time, and a tone at every whole second, are published, the other two
// rooms are watched. All browsers share one machine and so one clock: what a picture says when it is shown is its age from glass
// to glass, and a tone and a picture of the same moment should come together. The page is this test's own, so that what is tested is
// what passes between node and browser and not how it is shown.
//
// Says on stdout what it has come to, a line each: `met`, `reloaded`, `restart`, `gone`, `healed`. After `restart` the second node is to be
// stopped, and after `gone` started anew on the same ports.

import { check, launch, until } from './browser.mjs';

const nodes = process.argv.slice(2);
const SOON = 60_000;

/** Runs in the page: publishing and watching, and doing so again whenever it breaks off. */
function room() {
  const wait = (ms) => new Promise((again) => setTimeout(again, ms));

  async function negotiate(pc, path) {
    await pc.setLocalDescription(await pc.createOffer());
    const answer = await fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/sdp' },
      body: pc.localDescription.sdp,
    });
    if (answer.status !== 201) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    await pc.setRemoteDescription({ type: 'answer', sdp: await answer.text() });
  }

  function broken(pc) {
    return new Promise((done) => {
      pc.addEventListener('connectionstatechange', () => {
        if (['failed', 'closed', 'disconnected'].includes(pc.connectionState)) done();
      });
    });
  }

  async function keep(path, begin) {
    for (;;) {
      const pc = new RTCPeerConnection();
      const gone = broken(pc);
      try {
        begin(pc);
        await negotiate(pc, path());
        await gone;
      } catch (error) {
        self.trouble = String(error);
      }
      pc.close();
      await wait(500);
    }
  }

  function h264() {
    const all = RTCRtpReceiver.getCapabilities('video').codecs;
    const wanted = (codec) => /packetization-mode=1/.test(codec.sdpFmtpLine) && /42e01f/i.test(codec.sdpFmtpLine);
    return [...all.filter(wanted), ...all.filter((codec) => codec.mimeType === 'video/rtx')];
  }

  self.watched = new Map();
  const [WIDTH, HEIGHT, BITS, BIT] = [640, 360, 24, 24];

  /** A picture of the time in ms, as squares, with one that moves; and a tone at every whole second. */
  function pattern() {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [WIDTH, HEIGHT];
    const brush = canvas.getContext('2d');
    setInterval(() => {
      const now = Date.now();
      brush.fillStyle = '#446';
      brush.fillRect(0, 0, WIDTH, HEIGHT);
      for (let bit = 0; bit < BITS; bit++) {
        const on = Math.floor(now / 2 ** bit) % 2;
        brush.fillStyle = on ? '#fff' : '#000';
        brush.fillRect(bit * BIT, 0, BIT, BIT);
        // Upside down as well: what is not both is no time.
        brush.fillStyle = on ? '#000' : '#fff';
        brush.fillRect(bit * BIT, BIT, BIT, BIT);
      }
      brush.fillStyle = '#fc0';
      brush.fillRect((now / 5) % (WIDTH - 60), 200, 60, 60);
    }, 1000 / 20);
    const sound = new AudioContext({ sampleRate: 48_000, latencyHint: 'interactive' });
    const [tone, gate, out] = [sound.createOscillator(), sound.createGain(), sound.createMediaStreamDestination()];
    gate.gain.value = 0;
    tone.frequency.value = 1000;
    tone.connect(gate).connect(out);
    tone.start();
    let said = 0;
    setInterval(() => {
      const second = Math.floor(Date.now() / 1000) + 1;
      if (second === said) return;
      said = second;
      const at = sound.currentTime + second - Date.now() / 1000;
      gate.gain.setValueAtTime(0.8, at);
      gate.gain.setValueAtTime(0, at + 0.1);
    }, 200);
    return [canvas.captureStream(20).getVideoTracks()[0], out.stream.getAudioTracks()[0]];
  }

  /** Which time a picture shows, in the last 2^24 ms; null if none. */
  function time(video, brush) {
    brush.drawImage(video, 0, 0, WIDTH, HEIGHT);
    const { data } = brush.getImageData(0, 0, BITS * BIT, 2 * BIT);
    const light = (bit, row) => data[4 * ((row * BIT + BIT / 2) * BITS * BIT + bit * BIT + BIT / 2)] > 128;
    let now = 0;
    for (let bit = 0; bit < BITS; bit++) {
      if (light(bit, 0) === light(bit, 1)) return null;
      if (light(bit, 0)) now += 2 ** bit;
    }
    return now;
  }

  /** Notes the age of each picture that is shown, and of each tone that is heard, in ms. */
  function look(video, stream, ages) {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [WIDTH, HEIGHT];
    const brush = canvas.getContext('2d', { willReadFrequently: true });
    const shown = () => {
      const at = time(video, brush);
      if (at !== null) ages.pictures.push((Date.now() - at + 2 ** BITS) % 2 ** BITS);
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback(shown);
    const sound = new AudioContext({ sampleRate: 48_000 });
    const ear = sound.createAnalyser();
    ear.fftSize = 2048;
    sound.createMediaStreamSource(stream).connect(ear);
    const samples = new Float32Array(ear.fftSize);
    let loud = true;
    const listen = setInterval(() => {
      if (!video.isConnected) {
        clearInterval(listen);
        sound.close();
        return;
      }
      ear.getFloatTimeDomainData(samples);
      const first = samples.findIndex((sample) => Math.abs(sample) > 0.1);
      if (first >= 0 && !loud) ages.tones.push((Date.now() - ((samples.length - first) * 1000) / 48_000) % 1000);
      loud = first >= 0;
    }, 10);
  }

  self.publish = async () => {
    const tracks = pattern();
    const stream = new MediaStream(tracks);
    keep(() => '/api/whip', (pc) => {
      self.publisher = pc;
      pc.addTransceiver(tracks[1], { direction: 'sendonly', streams: [stream] });
      const sendEncodings = [
        { rid: 'main', maxBitrate: 500_000 },
        { rid: 'thumb', maxBitrate: 80_000, scaleResolutionDownBy: 4 },
      ];
      const line = pc.addTransceiver(tracks[0], { direction: 'sendonly', streams: [stream], sendEncodings });
      line.setCodecPreferences(h264());
    });
  };

  self.watch = (number) => {
    // Not muted: Chromium counts no energy of sound that it plays at no volume.
    const video = document.createElement('video');
    document.documentElement.append(video);
    const ages = { pictures: [], tones: [] };
    keep(() => `/api/whep/${number}?layer=main`, (pc) => {
      self.watched.set(number, { pc, video, ages });
      pc.addTransceiver('audio', { direction: 'recvonly' });
      pc.addTransceiver('video', { direction: 'recvonly' });
      pc.addEventListener('track', ({ streams }) => {
        if (video.srcObject === streams[0] || streams[0].getTracks().length < 2) return;
        video.srcObject = streams[0];
        video.play().catch(() => {});
        look(video, streams[0], ages);
      });
    });
  };

  self.seen = async (number) => {
    const { pc, video, ages } = self.watched.get(number) ?? {};
    if (!pc) return null;
    const found = { frames: 0, energy: 0, streams: video.srcObject?.getTracks().length ?? 0, ages };
    for (const report of (await pc.getStats()).values()) {
      if (report.type !== 'inbound-rtp') continue;
      if (report.kind === 'video') {
        found.frames = report.framesDecoded ?? 0;
        found.width = report.frameWidth;
      } else {
        found.energy = report.totalAudioEnergy ?? 0;
      }
    }
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [64, 36];
    const brush = canvas.getContext('2d');
    brush.drawImage(video, 0, 0, 64, 36);
    found.picture = [...brush.getImageData(0, 0, 64, 36).data].join();
    return found;
  };
}

async function state(url) {
  const answer = await fetch(`${url}api/state`).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

/** A room of ours: its page begins anew with each load. */
async function enter(browser, url) {
  const page = await browser.newPage();
  // Any document of the node's own will do.
  await page.goto(`${url}api/openapi.json`);
  return page;
}

async function work(page, url) {
  await page.evaluate(`(${room})()`);
  await page.evaluate(() => self.publish());
  const { session } = await until('the node takes part in the session', SOON, async () => {
    const now = await state(url);
    return now?.session?.me !== undefined && now;
  });
  for (const { number, me } of session.points) {
    if (!me) await page.evaluate((number) => self.watch(number), number);
  }
  return session.points.filter((point) => !point.me).map((point) => point.number);
}

function median(values) {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)];
}

/** Until every page sees the others move and hears them, from now on. */
async function all(what, pages, others) {
  await Promise.all(
    pages.map(async (page, room) => {
      for (const number of others[room]) {
        const look = () => page.evaluate((number) => self.seen(number), number);
        const before = await until(`${what}: room ${room + 1} sees ${number}`, SOON, async () => {
          const seen = await look();
          return seen?.frames > 0 && seen;
        });
        const after = await until(`${what}: room ${room + 1} sees ${number} move and hears it`, SOON, async () => {
          const seen = await look();
          // A connection that began anew counts from zero.
          if (seen?.frames < before.frames) Object.assign(before, seen);
          return seen && seen.frames >= before.frames + 15 && seen.energy > before.energy && seen.picture !== before.picture && seen;
        });
        check(after.streams === 2, `sound and picture are one stream, of ${after.streams} tracks`);
        const { pictures, tones } = await until(`${what}: room ${room + 1} hears tones of ${number}`, SOON, async () => {
          const { ages } = await look();
          return ages.tones.length >= 5 && ages.pictures.length >= 20 && ages;
        });
        const [picture, tone] = [median(pictures), median(tones)];
        // A tone of a second ago is like one of now.
        const apart = ((((tone - picture) % 1000) + 1500) % 1000) - 500;
        console.error(
          `${what}: room ${room + 1} sees ${number}: ${after.frames} frames, ${after.width} wide, ${picture} ms from glass to ` +
            `glass, sound ${Math.round(apart)} ms after the picture`,
        );
        check(picture < 5000, `a picture of ${number} is ${picture} ms old`);
      }
    }),
  );
}

const browsers = await Promise.all(nodes.map(() => launch(['--autoplay-policy=no-user-gesture-required'])));
try {
  const pages = await Promise.all(nodes.map((url, n) => enter(browsers[n], url)));
  const others = await Promise.all(pages.map((page, n) => work(page, nodes[n])));
  await all('met', pages, others);
  for (const url of nodes) {
    const now = await state(url);
    check(now.source === 'browser' && now.publishing, `${url} says that it publishes`);
    check(now.session.points.every((point) => point.audio && point.video), `${url} says that all are seen and heard`);
  }
  console.log('met');

  await pages[0].reload();
  others[0] = await work(pages[0], nodes[0]);
  await all('reloaded', pages, others);
  console.log('reloaded');

  console.log('restart');
  await until('the second node stops', SOON, async () => (await state(nodes[1])) === null);
  console.log('gone');
  await until('the second node is back in the session', SOON, async () => (await state(nodes[1]))?.session?.me !== undefined);
  await until('the second room publishes again', SOON, async () => (await state(nodes[1]))?.publishing);
  await all('healed', pages, others);
  console.log('healed');
} catch (error) {
  for (const url of nodes) console.error(JSON.stringify(await state(url)));
  throw error;
} finally {
  await Promise.all(browsers.map((browser) => browser.close()));
}
