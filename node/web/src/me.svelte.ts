// Who is logged in at this browser. The node decides what that person may do; the page only leaves out what it knows to be
// refused.

import { get, post, Refused } from './api/ask';
import type { Account } from './api/shapes';

class Me {
  account = $state<Account | null>(null);
  /** Whether the node has been asked yet. */
  known = $state(false);

  /** May start and end sessions. */
  conducts = $derived(this.account !== null && !this.account.must_change && this.account.role !== 'secretary');
  /** May write into the journal of a session that runs. */
  writes = $derived(this.account !== null && !this.account.must_change);
  /** May remove a point from a session. */
  removes = $derived(this.conducts && this.account?.role !== 'operator');
  /** May read the access log. */
  reads = $derived(this.account !== null && !this.account.must_change && this.account.role === 'admin');

  async ask(): Promise<void> {
    try {
      this.account = await get<Account>('/api/me');
      this.known = true;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        this.account = null;
        this.known = true;
      }
    }
  }

  // Vietnamese letters can be typed in two ways that look alike; the node is sent one.
  async enter(name: string, password: string): Promise<void> {
    const login = { name: name.normalize('NFC'), password: password.normalize('NFC') };
    this.account = await post<Account>('/api/login', login);
  }

  async change(old: string, fresh: string): Promise<void> {
    this.account = await post<Account>('/api/password', { old: old.normalize('NFC'), new: fresh.normalize('NFC') });
  }

  async leave(): Promise<void> {
    await post('/api/logout');
    this.account = null;
  }

  /** Passes a refusal on, and knows from it whether the visit has ended. */
  heard(error: unknown): unknown {
    if (error instanceof Refused && error.error === 'login') this.account = null;
    return error;
  }
}

export const me = new Me();
