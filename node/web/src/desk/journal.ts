// A line of the journal as a sentence in the language of the page. The node says what happened in a form of its own beside
// its English; a kind that this page does not know is shown as the node put it.

import type { JournalLine } from '../api/shapes';
import { t } from '../words.svelte';

/** A group is about two seconds of a point. */
const GROUP_SECONDS = 2;

export function sentence(line: JournalLine): string {
  const say = t().journal;
  const { kind, points = [], why = '', track, from = 0, to = 0, title = '', text = '', by } = line.fact ?? { kind: '' };
  const who = points[0] ?? '';
  const of = (words: Record<string, string>) => words[why] ?? why;
  const span = say.span(who, track === 'audio' ? say.sound : say.picture, (to - from + 1) * GROUP_SECONDS);
  switch (kind) {
    case 'started':
      return say.started(title, points.join(', '));
    case 'joined':
      return say.joined(who);
    case 'left':
      return `${who} ${of(say.left)}`;
    case 'removed':
      return `${say.removed(who)}: ${of(say.removedBy)}`;
    case 'epoch':
      return say.epoch;
    case 'gap':
      return `${say.gap(span)}: ${of(say.gaps)}`;
    case 'repaired':
      return say.repaired(span);
    case 'resumed':
      return say.resumed;
    case 'ended':
      return of(say.ended);
    case 'disputed':
      return say.disputed(span);
    case 'forked':
      return say.forked(who);
    case 'noted':
      return say.noted(of(say.notes), who, text, by ?? '');
    case 'broken':
      return say.broken;
    default:
      return line.event;
  }
}
