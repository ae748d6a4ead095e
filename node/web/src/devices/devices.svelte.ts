// Camera, microphone and speaker of this machine: which there are, which were chosen, and what they do at the moment.
//
// One stream for the whole page: the check shows it, and a session sends it. Whoever needs it says `use` and later
// `free`; the devices are on while somebody needs them.

import { recall, remember } from '../memory';
import { Meter } from './meter';

export type Fault =
  | { kind: 'denied' | 'none' | 'noCamera' | 'noMicrophone' | 'busy' | 'unplugged' | 'mutedCamera' | 'mutedMicrophone' }
  | { kind: 'other'; what: string };

type Kind = 'camera' | 'microphone' | 'speaker';

const KINDS: Record<MediaDeviceKind, Kind> = {
  videoinput: 'camera',
  audioinput: 'microphone',
  audiooutput: 'speaker',
};

/** How often the microphone's level is read. */
const LEVEL_EVERY_MS = 100;
/** Below this the microphone is said to hear nothing. A quiet room has about -60 dBFS. */
export const SILENCE_DB = -52;

class Devices {
  /** What there is, as far as the browser tells before it was allowed to use any. */
  found = $state.raw<MediaDeviceInfo[]>([]);
  chosen = $state<Record<Kind, string>>({
    camera: recall('camera') ?? '',
    microphone: recall('microphone') ?? '',
    speaker: recall('speaker') ?? '',
  });
  stream = $state.raw<MediaStream | null>(null);
  state = $state<'off' | 'asking' | 'on'>('off');
  faults = $state.raw<Fault[]>([]);
  /** Level of the microphone in dBFS. */
  level = $state(-100);
  /** Whether the microphone has been heard since it was opened. */
  heard = $state(false);

  #users = 0;
  #opening = 0;
  #meter: Meter | null = null;

  constructor() {
    navigator.mediaDevices?.addEventListener('devicechange', () => void this.#changed());
    void this.#list();
  }

  of(kind: Kind): MediaDeviceInfo[] {
    // Before permission is given browsers tell of devices without names and ids.
    return this.found.filter((device) => KINDS[device.kind] === kind && device.deviceId !== '');
  }

  choose(kind: Kind, id: string): void {
    this.chosen[kind] = id;
    remember(kind, id);
    if (kind !== 'speaker' && this.#users > 0) void this.#open();
  }

  async use(): Promise<void> {
    this.#users += 1;
    if (this.#users === 1 || this.stream === null) await this.#open();
  }

  free(): void {
    this.#users = Math.max(0, this.#users - 1);
    if (this.#users > 0) return;
    this.#opening += 1;
    this.#close();
    this.state = 'off';
    this.faults = [];
  }

  /** Tries once more what did not work; somebody may have allowed it meanwhile. */
  async again(): Promise<void> {
    if (this.#users > 0 && this.state === 'off') await this.#open();
  }

  /** Whether the devices may be opened without the browser asking anybody. */
  async allowed(): Promise<boolean> {
    try {
      const names = ['camera', 'microphone'] as PermissionName[];
      const states = await Promise.all(names.map((name) => navigator.permissions.query({ name })));
      return states.every(({ state }) => state === 'granted');
    } catch {
      return false;
    }
  }

  async #open(): Promise<void> {
    const turn = ++this.#opening;
    this.#close();
    this.state = 'asking';
    this.faults = [];
    await this.#list();
    const { stream, faults } = await opened(this.found, this.chosen);
    if (turn !== this.#opening) {
      // Somebody chose another device, or nobody needs it any more.
      stream?.getTracks().forEach((track) => track.stop());
      return;
    }
    this.stream = stream;
    this.faults = faults;
    this.state = stream ? 'on' : 'off';
    if (!stream) return;
    for (const track of stream.getTracks()) {
      track.addEventListener('ended', () => void this.#changed());
      track.addEventListener('mute', () => this.#muted(track));
      track.addEventListener('unmute', () => this.#muted(track));
      if (track.muted) this.#muted(track);
    }
    if (stream.getAudioTracks().length > 0) {
      this.#meter = new Meter(stream, LEVEL_EVERY_MS, (level) => {
        this.level = level;
        if (level > SILENCE_DB) this.heard = true;
      });
    }
    // Names are told only now.
    await this.#list();
  }

  #close(): void {
    this.#meter?.stop();
    this.#meter = null;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.level = -100;
    this.heard = false;
  }

  /** Something was plugged in or out: what ended is opened again, as whatever is there now. */
  async #changed(): Promise<void> {
    await this.#list();
    if (this.#users === 0 || this.state === 'asking') return;
    const live = (this.stream?.getTracks() ?? []).filter((track) => track.readyState === 'live');
    if (live.length < 2) {
      await this.#open();
      if (!this.stream) this.faults = [{ kind: 'unplugged' }];
    }
  }

  #muted(track: MediaStreamTrack): void {
    const kind = track.kind === 'audio' ? 'mutedMicrophone' : 'mutedCamera';
    const others = this.faults.filter((fault) => fault.kind !== kind);
    this.faults = track.muted ? [...others, { kind }] : others;
  }

  async #list(): Promise<void> {
    try {
      this.found = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    } catch {
      this.found = [];
    }
  }
}

/** Opens camera and microphone, or the one of them that there is. */
async function opened(
  found: MediaDeviceInfo[],
  chosen: Record<Kind, string>,
): Promise<{ stream: MediaStream | null; faults: Fault[] }> {
  if (!navigator.mediaDevices) return { stream: null, faults: [{ kind: 'other', what: 'mediaDevices' }] };
  const has = (kind: MediaDeviceKind) => found.some((device) => device.kind === kind);
  const faults: Fault[] = [];
  const [camera, microphone] = [has('videoinput'), has('audioinput')];
  if (!camera && !microphone) return { stream: null, faults: [{ kind: 'none' }] };
  if (!camera) faults.push({ kind: 'noCamera' });
  if (!microphone) faults.push({ kind: 'noMicrophone' });
  // A device that was chosen and is not there gives way to another one.
  const id = (kind: Kind) => (chosen[kind] ? { deviceId: { ideal: chosen[kind] } } : {});
  const video = { ...id('camera'), width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30, max: 30 } };
  const audio = { ...id('microphone'), echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: camera && video, audio: microphone && audio });
    return { stream, faults };
  } catch (error) {
    return { stream: null, faults: [fault(error)] };
  }
}

function fault(error: unknown): Fault {
  const name = error instanceof DOMException ? error.name : String(error);
  switch (name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return { kind: 'denied' };
    case 'NotFoundError':
      return { kind: 'none' };
    case 'NotReadableError':
    case 'AbortError':
      return { kind: 'busy' };
    default:
      return { kind: 'other', what: name };
  }
}

export const devices = new Devices();
