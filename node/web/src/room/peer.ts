// What every WebRTC connection with the node has in common. The node is on this machine and answers as an
// ICE-lite peer, so no STUN server is asked and the offer is sent whole, with its candidates (RFC 9725).

import { offer } from '../api/ask';

/** Candidates of this machine are there within milliseconds; one that is late is not needed. */
const GATHER_MS = 1000;

/** H.264 as every point records it comes first; anything else the node would refuse. */
export function preferH264(transceiver: RTCRtpTransceiver, codecs: readonly RTCRtpCodec[]): void {
  const profile = (codec: RTCRtpCodec) => codec.sdpFmtpLine ?? '';
  const is = (codec: RTCRtpCodec, text: string) => profile(codec).includes(text);
  const h264 = codecs.filter((codec) => codec.mimeType === 'video/H264' && is(codec, 'packetization-mode=1'));
  const best = (codec: RTCRtpCodec) => (is(codec, 'profile-level-id=42e0') ? 0 : is(codec, 'profile-level-id=4200') ? 1 : 2);
  const repairs = codecs.filter((codec) => /\/(rtx|red|ulpfec|flexfec)/i.test(codec.mimeType));
  if (h264.length === 0) return;
  transceiver.setCodecPreferences([...h264.sort((a, b) => best(a) - best(b)), ...repairs]);
}

/** Offers what `peer` has to the node and takes its answer. Gives the address at which the connection is changed and ended. */
export async function negotiate(peer: RTCPeerConnection, path: string): Promise<string> {
  await peer.setLocalDescription(await peer.createOffer());
  await gathered(peer);
  const answer = await offer(path, peer.localDescription?.sdp ?? '');
  await peer.setRemoteDescription({ type: 'answer', sdp: answer.sdp });
  return answer.at;
}

function gathered(peer: RTCPeerConnection): Promise<void> {
  if (peer.iceGatheringState === 'complete') return Promise.resolve();
  return new Promise((done) => {
    setTimeout(done, GATHER_MS);
    peer.addEventListener('icegatheringstatechange', () => {
      if (peer.iceGatheringState === 'complete') done();
    });
  });
}
