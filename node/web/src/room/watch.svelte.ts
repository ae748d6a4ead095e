// Watching one point: its sound and picture come from the node in one connection (WHEP), in sync. A connection that breaks,
// for whatever reason, is made anew, with longer and longer waits, until nobody wants to watch any more.

import { end, put } from '../api/ask';
import type { Layer } from '../api/shapes';
import { wait } from './backoff';
import { negotiate, preferH264 } from './peer';

/** A connection that says it is interrupted may come back; after this time it is made anew. */
const INTERRUPTED_MS = 4000;
/** A picture that has not moved for this long is said to stand still: the longest a keyframe lets others wait is two seconds. */
const STILL_MS = 3500;
/** And after this time the connection is not believed any more. */
const STUCK_MS = 15_000;

export class Watch {
  stream = $state.raw<MediaStream | null>(null);
  /** What the connection with the node does. Whether anything comes through it is another matter. */
  link = $state<'connecting' | 'up' | 'broken'>('connecting');
  /** How loud the point is, in dBFS. */
  level = $state(-100);
  /** Whether pictures that should come do not. */
  still = $state(false);

  #peer: RTCPeerConnection | null = null;
  #at = '';
  #layer: Layer;
  #asked: Layer;
  #tries = 0;
  #timer: number | undefined;
  #closed = false;
  #turn = 0;
  #energy = { energy: 0, seconds: 0 };
  #frames = 0;
  #moved = 0;
  #measured = 0;

  constructor(
    readonly number: number,
    layer: Layer,
    /** This room's own sound comes back to it only as an echo. */
    readonly heard: boolean,
  ) {
    this.#layer = layer;
    this.#asked = layer;
    void this.#connect();
  }

  /** Which size is wanted. The node changes it at the next group. */
  want(layer: Layer): void {
    this.#layer = layer;
    if (this.link !== 'up' || this.#asked === layer || !this.#at) return;
    this.#asked = layer;
    put(`${this.#at}/layer`, { layer }).catch(() => this.#again(this.#turn));
  }

  close(): void {
    this.#closed = true;
    this.#drop();
  }

  /** Reads level and movement from what was really decoded. `pictures` says whether the node gets some of this point. */
  async measure(pictures: boolean): Promise<void> {
    const peer = this.#peer;
    const at = performance.now();
    // Nobody measures while the page is hidden, and browsers may stop pictures then.
    const awoke = at - this.#measured > STILL_MS;
    this.#measured = at;
    if (!peer || this.link !== 'up' || !pictures || awoke) this.#moved = at;
    if (!peer || this.link !== 'up') {
      this.level = -100;
      this.still = false;
      return;
    }
    for (const receiver of peer.getReceivers()) {
      const report = await receiver.getStats();
      if (peer !== this.#peer) return;
      report.forEach((entry: RTCInboundRtpStreamStats) => {
        if (entry.type !== 'inbound-rtp') return;
        if (entry.kind === 'audio') this.#hear(entry.totalAudioEnergy ?? 0, entry.totalSamplesDuration ?? 0);
        if (entry.kind === 'video' && entry.framesDecoded !== this.#frames) {
          this.#frames = entry.framesDecoded ?? 0;
          this.#moved = at;
        }
      });
    }
    this.still = at - this.#moved > STILL_MS;
    if (at - this.#moved > STUCK_MS) this.#again(this.#turn);
  }

  #hear(energy: number, seconds: number): void {
    const [more, lasted] = [energy - this.#energy.energy, seconds - this.#energy.seconds];
    this.#energy = { energy, seconds };
    this.level = lasted > 0 && more > 0 ? Math.max(-100, 10 * Math.log10(more / lasted)) : -100;
  }

  async #connect(): Promise<void> {
    const turn = ++this.#turn;
    const peer = new RTCPeerConnection();
    this.#peer = peer;
    this.link = this.#tries === 0 ? 'connecting' : 'broken';
    const stream = new MediaStream();
    peer.addEventListener('track', ({ track }) => stream.addTrack(track));
    peer.addEventListener('connectionstatechange', () => this.#changed(turn, peer));
    if (this.heard) peer.addTransceiver('audio', { direction: 'recvonly' });
    const video = peer.addTransceiver('video', { direction: 'recvonly' });
    preferH264(video, RTCRtpReceiver.getCapabilities('video')?.codecs ?? []);
    this.#asked = this.#layer;
    try {
      const at = await negotiate(peer, `/api/whep/${this.number}?layer=${this.#asked}`);
      if (turn !== this.#turn) {
        peer.close();
        end(at);
        return;
      }
      this.#at = at;
      this.stream = stream;
    } catch {
      this.#again(turn);
    }
  }

  #changed(turn: number, peer: RTCPeerConnection): void {
    if (turn !== this.#turn) return;
    clearTimeout(this.#timer);
    switch (peer.connectionState) {
      case 'connected':
        this.#tries = 0;
        this.link = 'up';
        this.#moved = performance.now();
        this.want(this.#layer);
        break;
      case 'disconnected':
        this.link = 'broken';
        this.#timer = window.setTimeout(() => this.#again(turn), INTERRUPTED_MS);
        break;
      case 'failed':
      case 'closed':
        this.#again(turn);
        break;
      default:
        this.#timer = window.setTimeout(() => this.#again(turn), 2 * INTERRUPTED_MS);
    }
  }

  #again(turn: number): void {
    if (turn !== this.#turn || this.#closed) return;
    this.#drop();
    this.link = 'broken';
    this.#timer = window.setTimeout(() => void this.#connect(), wait(this.#tries));
    this.#tries += 1;
  }

  #drop(): void {
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#peer?.close();
    this.#peer = null;
    if (this.#at) end(this.#at);
    this.#at = '';
    this.#energy = { energy: 0, seconds: 0 };
    this.#frames = 0;
    this.level = -100;
    this.still = false;
    this.#moved = performance.now();
  }
}
