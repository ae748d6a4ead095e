"""Shows that verify.py takes what the program signed, and no copy of it that was changed.

A file that ends between two records is a good one of fewer records: a membership without its last admission, a journal or
a point's segments without the last. They are found out by comparing with what others hold, and by nothing in the file itself.

The records are the examples that the program must read for ever (`store/tests/vectors`).
"""

import os
import sys
from pathlib import Path

import verify

VECTORS = Path(__file__).parents[2] / "store" / "tests" / "vectors"


def refused(check, data, *keys):
    try:
        check(data, *keys)
    except (verify.Bad, TypeError, KeyError, AttributeError, ValueError):
        return True
    return False


def framed(records):
    return b"".join(len(record).to_bytes(4, "big") + record for record in records)


def every_other_byte(data):
    for at in range(len(data)):
        yield f"byte {at}", data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
    for at in range(len(data)):
        yield f"cut at {at}", data[:at]


def changed_copies(data, begin, records):
    """Every changed copy, without those that end between two records."""
    ends = {begin + len(framed(records[:count])) for count in range(1, len(records))}
    for what, changed in every_other_byte(data):
        if not (what.startswith("cut") and len(changed) in ends):
            yield what, changed


def main():
    members = bytes.fromhex((VECTORS / "membership-v1.hex").read_text().strip())
    entries = [bytes.fromhex(line) for line in (VECTORS / "journal-v1.hex").read_text().split()]
    chain = [bytes.fromhex(line) for line in (VECTORS / "segment-v1.hex").read_text().split()]
    _, authority = verify.signed(next(verify.records(members[1:])), verify.ROSTER)
    _, central = verify.signed(entries[0], verify.ENTRY)
    print(verify.membership(members, authority, None))
    print(verify.journal(framed(entries), None, central))
    print(verify.segments(framed(chain), None, None))

    def journal(data):
        return (verify.journal, data, None, central)

    attacks = []
    for what, data in changed_copies(members, 1, list(verify.records(members[1:]))):
        attacks.append((f"membership, {what}", (verify.membership, data, authority, None)))
    for what, data in changed_copies(framed(entries), 0, entries):
        attacks.append((f"journal, {what}", journal(data)))
    for n in range(len(entries) - 1):
        attacks.append((f"entry {n} dropped", journal(framed(entries[:n] + entries[n + 1 :]))))
        attacks.append((f"entry {n} twice", journal(framed(entries[: n + 1] + entries[n:]))))
        swapped = entries[:n] + [entries[n + 1], entries[n]] + entries[n + 2 :]
        attacks.append((f"entry {n} and the next swapped", journal(framed(swapped))))
    for what, data in changed_copies(framed(chain), 0, chain):
        attacks.append((f"segments, {what}", (verify.segments, data, None, None)))
    for n in range(len(chain) - 1):
        attacks.append((f"segment {n} dropped", (verify.segments, framed(chain[:n] + chain[n + 1 :]), None, None)))
    ends = [bytes.fromhex(line) for line in (VECTORS / "manifest-v1.hex").read_text().split()]
    verify.signed(ends[0], verify.MANIFEST)
    verify.signed(ends[1], verify.COUNTERSIGNATURE)
    for record, kind in zip(ends, (verify.MANIFEST, verify.COUNTERSIGNATURE)):
        attacks += [(f"{kind}, {what}", (verify.signed, data, kind)) for what, data in every_other_byte(record)]
    attacks.append(("another authority", (verify.membership, members, os.urandom(32), None)))
    attacks.append(("another central", (verify.journal, framed(entries), None, os.urandom(32))))
    attacks.append(("a journal for a membership", (verify.membership, b"\x01" + framed(entries), None, None)))
    attacks.append(("a membership for a journal", (verify.journal, members[1:], None, None)))
    taken = [what for what, (check, data, *keys) in attacks if not refused(check, data, *keys)]
    for what in taken:
        print(f"taken: {what}")
    print(f"{len(attacks)} changed copies, {len(attacks) - len(taken)} refused")
    return 1 if taken else 0


if __name__ == "__main__":
    sys.exit(main())
