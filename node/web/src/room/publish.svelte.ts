// Sending this room's camera and microphone to its node (WHIP): sound, and the picture in two sizes. The node seals and keeps
// it; nothing leaves the machine from here. A connection that breaks is made anew.
//
// One page sends at a time, and the latest takes over. So a page whose connection was closed while the node still gets a
// picture was replaced: it says so and leaves the other alone, until somebody asks it to send again.

import { end } from '../api/ask';
import { devices } from '../devices/devices.svelte';
import { wait } from './backoff';
import { negotiate, preferH264 } from './peer';

/** The record's picture and the tiles', and what they may take of the way to the node. */
const SIZES: RTCRtpEncodingParameters[] = [
  { rid: 'main', maxBitrate: 1_500_000, maxFramerate: 30 },
  { rid: 'thumb', maxBitrate: 180_000, maxFramerate: 15, scaleResolutionDownBy: 4 },
];
const INTERRUPTED_MS = 4000;

class Publish {
  state = $state<'off' | 'connecting' | 'up' | 'broken' | 'replaced'>('off');
  /** Whether the room's own microphone is muted by hand. */
  muted = $state(false);

  #peer: RTCPeerConnection | null = null;
  #at = '';
  #tries = 0;
  #timer: number | undefined;
  #turn = 0;
  #wanted = false;
  /** Whether the node said that it gets a picture, as it said last. */
  #taken = () => false;

  async start(taken: () => boolean): Promise<void> {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#taken = taken;
    await devices.use();
    await this.#connect();
  }

  stop(): void {
    if (!this.#wanted) return;
    this.#wanted = false;
    this.#drop();
    this.state = 'off';
    devices.free();
  }

  /** Takes over from another page. */
  take(): void {
    if (this.state === 'replaced') void this.#connect();
  }

  mute(muted: boolean): void {
    this.muted = muted;
    this.#apply(devices.stream);
  }

  /** Other devices were chosen or came back: they are sent in place of those before. */
  async exchange(stream: MediaStream | null): Promise<void> {
    this.#apply(stream);
    if (!this.#peer || !stream) return;
    for (const { sender, receiver } of this.#peer.getTransceivers()) {
      const track = stream.getTracks().find((track) => track.kind === receiver.track.kind) ?? null;
      if (sender.track !== track) await sender.replaceTrack(track).catch(() => this.#again(this.#turn));
    }
  }

  #apply(stream: MediaStream | null): void {
    for (const track of stream?.getAudioTracks() ?? []) track.enabled = !this.muted;
  }

  async #connect(): Promise<void> {
    const turn = ++this.#turn;
    if (!devices.stream) await devices.again();
    if (turn !== this.#turn || !this.#wanted) return;
    const stream = devices.stream;
    if (!stream) {
      // The devices say what is wrong with them; perhaps they are there next time.
      this.state = 'broken';
      this.#later();
      return;
    }
    this.state = this.#tries === 0 ? 'connecting' : 'broken';
    const peer = new RTCPeerConnection();
    this.#peer = peer;
    peer.addEventListener('connectionstatechange', () => this.#changed(turn, peer));
    const [audio, video] = [stream.getAudioTracks()[0], stream.getVideoTracks()[0]];
    peer.addTransceiver(audio ?? 'audio', { direction: 'sendonly', streams: [stream] });
    const sends = peer.addTransceiver(video ?? 'video', { direction: 'sendonly', streams: [stream], sendEncodings: SIZES });
    preferH264(sends, RTCRtpSender.getCapabilities('video')?.codecs ?? []);
    this.#apply(stream);
    try {
      const at = await negotiate(peer, '/api/whip');
      if (turn !== this.#turn) {
        peer.close();
        end(at);
        return;
      }
      this.#at = at;
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
        this.state = 'up';
        break;
      case 'disconnected':
        this.#timer = window.setTimeout(() => this.#lost(turn), INTERRUPTED_MS);
        break;
      case 'failed':
      case 'closed':
        this.#lost(turn);
        break;
      default:
        this.#timer = window.setTimeout(() => this.#again(turn), 2 * INTERRUPTED_MS);
    }
  }

  /** A connection that had been up is gone. */
  #lost(turn: number): void {
    if (turn !== this.#turn) return;
    if (this.#taken()) {
      this.#drop();
      this.state = 'replaced';
    } else {
      this.#again(turn);
    }
  }

  #again(turn: number): void {
    if (turn !== this.#turn || !this.#wanted) return;
    this.#drop();
    this.state = 'broken';
    this.#later();
  }

  #later(): void {
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
  }
}

export const publish = new Publish();
