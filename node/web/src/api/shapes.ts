// The shapes of the node's answers: those of the live room as the node's own description has them (`schema.ts` is made from
// `openapi.json` by `npm run types`), the others by hand, with the names that `diemcau --json` promises to scripts. Times are
// unix milliseconds of the node's clock.

import type { components } from './schema';

type Schemas = components['schemas'];

/** What the node tells of the room. */
export type News = Schemas['News'];
export type State = Schemas['State'];
export type Live = Schemas['Live'];
export type LivePoint = Schemas['LivePoint'];
export type Layer = Schemas['Layer'];

export interface Status {
  self: {
    name: string;
    level: string;
    node: string;
    version: string;
    mesh_port: number;
    media_port: number;
    console: string | null;
    started: number | null;
    source: string;
    source_lacks: string | null;
    roster: number;
  };
  points: StatusPoint[];
  session: Running | null;
  disk: {
    free: number;
    total: number;
    groups: number;
    bytes: number;
    lost: number;
    damaged: boolean;
    alarm: boolean;
    space: 'enough' | 'tight' | 'short' | 'last';
  };
  clock: { against: string | null; offset_ms: number | null; error_ms: number | null };
}

export interface StatusPoint {
  name: string;
  level: string;
  node: string;
  online: boolean;
  last_seen: number | null;
  rtt_ms: number | null;
  same_roster: boolean | null;
}

export interface Running {
  id: string;
  title: string;
  central: string;
  role: string;
  started: number;
  present: string[];
}

export interface Session {
  id: string;
  title: string;
  state: 'open' | 'ended';
  central: string;
  started: number;
  ended: number | null;
  points: { number: number; name: string; node: string; present: boolean }[];
  groups: number;
  bytes: number;
  gaps: number;
  holders: number;
  journal?: JournalLine[];
}

export interface JournalLine {
  n: number;
  at_ms: number;
  wall: number;
  event: string;
  fact?: Fact;
}

/** What a line of the journal says, for sentences in other languages than the node's. */
export interface Fact {
  kind: string;
  title?: string;
  points?: string[];
  why?: string;
  track?: string;
  from?: number;
  to?: number;
  text?: string;
  by?: string;
}

/** What a note is about. */
export type NoteKind = 'course' | 'incident' | 'violation' | 'decision';

export type Role = 'operator' | 'secretary' | 'chair' | 'admin';

export interface Account {
  name: string;
  role: Role;
  must_change: boolean;
}

export interface AccessLine {
  n: number;
  at: number;
  by: string;
  who: string | null;
  name: string | null;
  deed: string;
  what: string | null;
  which: string | null;
  refused: string | null;
  times: number;
  since: number;
}

export interface AccessPage {
  lines: AccessLine[];
  broken: string[];
  next: number | null;
}
