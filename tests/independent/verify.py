"""Checks records of a mesh without a line of its program, from the description of their bytes alone.

    verify.py [--authority KEY] [--central KEY] KIND FILE...

KIND is `membership` (`DATA/roster.cose`: the roster and the admissions beside it), `journal`, `segments` or `manifest`
(records one after the other, each behind its length in four bytes) or `recording` (the folder that `archive export --sealed` writes).
Prints one line for each file, `good` or `bad` with the first fault, for a recording with every fault, and ends with
1 if any is bad. CBOR, Ed25519 and BLAKE3 are public libraries; COSE (RFC 9052) is a page of them.
"""

import argparse
import re
import sys
from pathlib import Path

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGN1 = 18  # RFC 9052, 2
ALGORITHM, CONTENT_TYPE, KEY_ID, EDDSA = 1, 3, 4, -8  # RFC 9052, 3.1; RFC 9053, 2.2
NONE = bytes(32)

ROSTER = "application/vnd.diemcau.roster.v1+cbor"
GRANT = "application/vnd.diemcau.grant.v1+cbor"
ADMISSION = "application/vnd.diemcau.admission.v1+cbor"
ENTRY = "application/vnd.diemcau.journal.v1+cbor"
SEGMENT = "application/vnd.diemcau.segment.v1+cbor"
MANIFEST = "application/vnd.diemcau.manifest.v1+cbor"
COUNTERSIGNATURE = "application/vnd.diemcau.countersignature.v1+cbor"

FIELDS = {
    ROSTER: {"number", "prev", "agency", "recovery", "issued_unix_ms", "points", "revoked", "void"},
    GRANT: {"id", "issuer", "name", "level", "zone", "rights", "replaces", "key", "not_after_unix_ms"},
    ADMISSION: {"grant", "node", "wrap", "addresses", "proof", "unix_ms"},
    ENTRY: {"n", "prev", "session", "at_us", "wall_ms", "event"},
    SEGMENT: {"session", "point", "n", "prev", "from_us", "to_us", "wall_ms", "keys", "tracks", "last"},
}
FIELDS[MANIFEST] = {"session", "n", "prev", "wall_ms", "head", "entries", "journal", "chains"}
FIELDS[COUNTERSIGNATURE] = {"session", "point", "n", "manifest", "segments", "last", "wall_ms"}
CHAIN = {"point", "segments", "last", "closed", "tracks"}
END = {"track", "next", "groups", "bytes", "missing"}
TRACK = {"track", "from", "next", "groups", "gaps"}
GROUP = {"seq", "hash", "len", "frames", "t0_us", "span_us", "epoch", "mac"}
GAP = {"from", "to", "reason"}


class Bad(Exception):
    """What is wrong with a file."""


def need(condition, what):
    if not condition:
        raise Bad(what)


def decode(data, what):
    """The value of the one deterministic encoding (RFC 8949, 4.2.1). All our keys are shorter than 24 bytes, for which
    the library's canonical order is the same."""
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise Bad(f"{what} is not CBOR: {error}") from None
    need(cbor2.dumps(value, canonical=True) == data, f"{what} is not in its one encoding")
    return value


def signed(record, kind):
    """Content and signer of a COSE_Sign1, if all of it is as described."""
    tag = decode(record, "a record")
    need(isinstance(tag, cbor2.CBORTag) and tag.tag == SIGN1, "a record is no COSE_Sign1")
    need(len(tag.value) == 4, "a record has not four parts")
    protected, unprotected, payload, signature = tag.value
    need(unprotected == {}, "a record has an unprotected header")
    header = decode(protected, "a protected header")
    need(isinstance(header, dict), "a protected header is no map")
    signer = header.get(KEY_ID)
    need(header == {ALGORITHM: EDDSA, CONTENT_TYPE: kind, KEY_ID: signer}, f"a record is no {kind}")
    need(isinstance(signer, bytes) and len(signer) == 32, "a signer is no key")
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload], canonical=True)
    verify(signer, signature, to_be_signed, "a record's signature is wrong")
    content = decode(payload, "a payload")
    need(isinstance(content, dict) and set(content) == FIELDS[kind], f"a payload has other fields than {kind}")
    return content, signer


def verify(key, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Bad(what) from None


def records(data):
    while data:
        need(len(data) >= 4, "the file ends in a length")
        length = int.from_bytes(data[:4], "big")
        need(len(data) >= 4 + length, "the file ends in a record")
        yield data[4 : 4 + length]
        data = data[4 + length :]


def membership(data, authority, _central):
    need(data[:1] == b"\x01", "the file has another version")
    found = list(records(data[1:]))
    need(found, "there is no roster")
    roster, signer = signed(found[0], ROSTER)
    need(authority is None or signer == authority, f"the roster is signed by {signer.hex()}")
    need(roster["number"] >= 1 and (roster["number"] == 1) == (roster["prev"] == NONE), "the first roster has none before")
    nodes = [point["node"] for point in roster["points"]]
    names = [point["name"].lower() for point in roster["points"]]
    need(len(set(nodes)) == len(nodes) and len(set(names)) == len(names), "two points are one")
    gone = {entry["node"] for entry in roster["revoked"]}
    need(not gone & set(nodes), "a revoked node is a point")
    grants = []
    for record in found[1:]:
        admission, issuer = signed(record, ADMISSION)
        grant, granter = signed(admission["grant"], GRANT)
        need(granter == signer, "a grant is not the authority's")
        need(issuer == grant["issuer"], "an admission is not by who may redeem its grant")
        taken = b"diemcau/1 grant taken by" + grant["id"] + admission["node"] + admission["wrap"]
        verify(grant["key"], admission["proof"], taken, "an admission's proof is wrong")
        need(admission["unix_ms"] <= grant["not_after_unix_ms"], "a grant had expired")
        need(grant["id"] not in roster["void"] and issuer not in gone, "an admission is void")
        grants.append(grant["id"])
    need(grants == sorted(set(grants)), "admissions are out of order or twice")
    return f"roster {roster['number']} of {roster['agency']}: {len(nodes)} points, {len(grants)} admitted since"


def follow(kind, what, data, signer=None):
    """The records of a chain, each with its hash: numbered from 0, each following the one before, by one signer, of one
    session."""
    before, session = NONE, None
    for n, record in enumerate(records(data)):
        content, by = signed(record, kind)
        signer, session = signer or by, session or content["session"]
        need(by == signer, f"{what} {n} is signed by {by.hex()}")
        need(content["session"] == session, f"{what} {n} is of another session")
        need(content["n"] == n, f"{what} {n} is missing, {content['n']} comes")
        need(content["prev"] == before, f"{what} {n} does not follow the one before it")
        before = blake3(record).digest()
        yield content, before
    need(session, f"there is no {what}")


def journal(data, _authority, central):
    for entry, last in follow(ENTRY, "entry", data, central):
        pass
    return f"journal of {entry['session'].hex()}: {entry['n'] + 1} entries, the last is {last.hex()}"


def segment_chain(data, node=None):
    """The segments of a point. Each track goes on where the segment before left it, and every number is a group or in a gap."""
    segments, ends, to_us = [], {}, 0
    for segment, last in follow(SEGMENT, "segment", data, node):
        n = segment["n"]
        need(not (segments and segments[-1]["last"]), f"segment {n} comes after the last")
        need(segments == [] or segments[0]["point"] == segment["point"], f"segment {n} is of another point")
        need(segment["from_us"] == to_us <= segment["to_us"], f"segment {n} leaves out time")
        to_us = segment["to_us"]
        numbers = [track["track"] for track in segment["tracks"]]
        need(numbers == sorted(set(numbers)), f"segment {n} has tracks out of order")
        need(set(ends) <= set(numbers), f"segment {n} leaves out a track")
        need(all(number // 8 == segment["point"] for number in numbers), f"segment {n} has another point's track")
        epochs = set()
        for track in segment["tracks"]:
            need(set(track) == TRACK, f"segment {n} has a track with other fields")
            need(track["from"] == ends.get(track["track"], 0), f"segment {n} leaves out groups")
            spans = []
            for group in track["groups"]:
                need(set(group) == GROUP, f"segment {n} has a group with other fields")
                need(group["t0_us"] + group["span_us"] <= to_us, f"segment {n} ends before a group of it")
                epochs.add(group["epoch"])
                spans.append((group["seq"], group["seq"]))
            for gap in track["gaps"]:
                need(set(gap) == GAP and gap["reason"] in ("not_stored", "lost", "damaged"), f"segment {n} has a bad gap")
                spans.append((gap["from"], gap["to"]))
            expected = track["from"]
            for first, final in sorted(spans):
                need(first == expected and final >= first, f"segment {n} has a number twice or not at all")
                expected = final + 1
            need(expected == track["next"], f"segment {n} does not end where its groups do")
            ends[track["track"]] = expected
        need([key["epoch"] for key in segment["keys"]] == sorted(epochs), f"segment {n} has other keys than its groups")
        segments.append(segment)
    return segments, last, ends


def segments(data, _authority, _central):
    chain, last, _ = segment_chain(data)
    groups = sum(len(track["groups"]) for segment in chain for track in segment["tracks"])
    end = "" if chain[-1]["last"] else ", not closed"
    return f"point {chain[0]['point']}: {len(chain)} segments of {groups} groups, the last is {last.hex()}{end}"


def manifest(data, _authority, central):
    """The last of the manifests, each of which follows the one before."""
    for content, last in follow(MANIFEST, "manifest", data, central):
        points = [chain["point"] for chain in content["chains"]]
        need(points == sorted(set(points)), "a manifest has points out of order")
        for chain in content["chains"]:
            need(set(chain) == CHAIN and all(set(end) == END for end in chain["tracks"]), "a manifest has other fields")
            need((chain["segments"] == 0) == (chain["last"] == NONE), "a manifest has an end of no segments")
            for end in chain["tracks"]:
                need(end["track"] // 8 == chain["point"], "a manifest has another point's track")
                need(end["groups"] + end["missing"] <= end["next"], "a manifest has more groups than numbers")
    return content, last


def manifests(data, authority, central):
    content, last = manifest(data, authority, central)
    return f"manifest {content['n']} of {content['session'].hex()}: {len(content['chains'])} points, {last.hex()}"


def varint(data, at):
    """RFC 9000, 16: the first two bits say how long it is."""
    need(at < len(data), "a group ends in a number")
    length = 1 << (data[at] >> 6)
    need(at + length <= len(data), "a group ends in a number")
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 8 * length - 2) - 1)
    return value, at + length


def group(data):
    """What can be seen of a group without a key."""
    need(len(data) >= 84 and data[0] == 1, "a group has another version")
    number = lambda at, length: int.from_bytes(data[at : at + length], "big")
    frames, span, at = 0, 0, 84
    while at < len(data):
        length, at = varint(data, at)
        need(at + length <= len(data), "a group ends in a frame")
        dt, _ = varint(data, at)
        frames, span, at = frames + 1, max(span, dt), at + length
    seen = {"seq": number(52, 8), "len": len(data), "frames": frames, "t0_us": number(76, 8), "span_us": span}
    return seen | {"epoch": data[62], "hash": blake3(data).digest()}, data[2:18], data[18:50], number(50, 2)


KINDS = ["audio", "main", "thumb", "screen"]


def recording(path, authority, _central):
    """Every fault of a folder, and what is to be said of it."""
    root, faults = Path(path), []

    def attempt(where, check, *arguments):
        try:
            return check(*arguments)
        except Bad as fault:
            faults.append(f"{where}: {fault}")
        except OSError as fault:
            faults.append(f"{where}: cannot be read ({fault.strerror})")
        except (TypeError, KeyError, AttributeError, ValueError, IndexError) as fault:
            faults.append(f"{where}: a field is of another kind ({fault})")

    need((root / "diemcau.txt").read_text() == "diemcau sealed recording 1\n", "the folder is of another kind")
    head_bytes = (root / "head.cbor").read_bytes()
    need(head_bytes[:1] == b"\x02", "the head has another version")
    head = decode(head_bytes[1:], "the head")
    need(head["started_unix_ms"] == int.from_bytes(head["id"][:6], "big"), "the head has another start than its id")
    nodes = {point["number"]: point["node"] for point in head["points"]}
    attempt("roster.cose", lambda: membership((root / "roster.cose").read_bytes(), authority, None))

    hashes, gaps, ended, joined, whole = [], [], False, {number for number, node in nodes.items() if node == head["central"]}, True

    def read_journal():
        nonlocal ended
        told = {0: (head["epochs"][0]["commitment"], 0)}
        for entry, last in follow(ENTRY, "entry", (root / "journal.cose").read_bytes(), head["central"]):
            need(entry["session"] == head["id"], "it is of another session")
            hashes.append(last)
            ((name, event),) = entry["event"].items()
            need((entry["n"] == 0) == (name == "started"), f"entry {entry['n']} is not at its place")
            if name == "started":
                same = event["title"] == head["title"] and event["points"] == head["points"]
                need(same, "it has another title or other points than the head")
            elif name == "joined":
                joined.add(event["point"])
            elif name == "epoch":
                told[event["epoch"]] = (event["commitment"], event["from_us"])
            elif name in ("gap", "repaired"):
                gaps.append((event["track"], event["from_seq"], event["to_seq"], name == "gap"))
            elif name in ("disputed", "forked"):
                faults.append(f"journal.cose: entry {entry['n']} says {name}")
            elif name == "noted":
                text = event["text"]
                plain = not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in text)
                need(text.strip() and len(text) <= 1000 and plain, f"entry {entry['n']} has a note that cannot be shown")
            elif name == "ended":
                ended = True
        need(ended == (head["state"] == "ended"), "it has no end, or one too many")
        need(told == {epoch["epoch"]: (epoch["commitment"], epoch["from_us"]) for epoch in head["epochs"]}, "other keys")
        return True

    whole = attempt("journal.cose", read_journal)

    def is_gap(track, seq):
        told = [missing for of, first, last, missing in gaps if of == track and first <= seq <= last]
        return bool(told) and all(told)

    listed, ends, chains = {}, {}, {}
    removed = {number for epoch in head["epochs"] for number in epoch["removed"]}
    commitments = {epoch["epoch"]: epoch["commitment"] for epoch in head["epochs"]}

    def read_segments(number, node):
        file = root / "segments" / f"{number}.cose"
        if not file.exists() and number not in joined and whole:
            return
        chain, last, to = segment_chain(file.read_bytes(), node)
        chains[number] = [blake3(record).digest() for record in records(file.read_bytes())]
        need(chain[0]["session"] == head["id"] and chain[0]["point"] == number, "they are of another session or point")
        ends.update(to)
        for segment in chain:
            for key in segment["keys"]:
                need(commitments.get(key["epoch"]) == key["commitment"], f"segment {segment['n']} has another key")
            for track in segment["tracks"]:
                listed.update({(track["track"], group["seq"]): group for group in track["groups"]})
        open_end = head["state"] == "ended" and number not in removed
        need(chain[-1]["last"] or not open_end, "the last segment is missing")

    for number, node in nodes.items():
        attempt(f"segments/{number}.cose", read_segments, number, node)

    def read_manifest():
        content, this = manifest((root / "manifest.cose").read_bytes(), None, head["central"])
        need(content["session"] == head["id"], "it is of another session")
        need(content["head"] == blake3(head_bytes).digest(), "it is of another head")
        if whole:
            entries = content["entries"]
            need(0 < entries <= len(hashes), f"it knows of {entries} entries of the journal, {len(hashes)} are here")
            need(hashes[entries - 1] == content["journal"], "it names another entry of the journal")
        need([chain["point"] for chain in content["chains"]] == sorted(nodes), "it names other points")
        for chain in content["chains"]:
            number, count, found = chain["point"], chain["segments"], chains.get(chain["point"], [])
            need(count <= len(found), f"it knows of {count} segments of point {number}, {len(found)} are here")
            need(count == 0 or found[count - 1] == chain["last"], f"it names another segment of point {number}")
        for record in records((root / "countersigned.cose").read_bytes()):
            by, signer = signed(record, COUNTERSIGNATURE)
            need(nodes.get(by["point"]) == signer and by["session"] == head["id"], "a countersignature is not the point's")
            ends = {chain["point"]: (chain["segments"], chain["last"]) for chain in content["chains"]}
            same = by["manifest"] != this or ends[by["point"]] == (by["segments"], by["last"])
            need(same, "a countersignature names another end")

    if head["state"] == "ended":
        attempt("manifest.cose", read_manifest)
    here, good = {}, 0
    for file in sorted((root / "groups").glob("*/*")):
        name = re.fullmatch(r"(\d+)-(audio|main|thumb|screen)/(\d{10,})\.group", f"{file.parent.name}/{file.name}")
        if name:
            here[int(name[1]) * 8 + KINDS.index(name[2]), int(name[3])] = file
        else:
            faults.append(f"{file.parent.name}/{file.name}: does not belong to a recording")

    def read_group(track, seq, entry):
        seen, session, node, of = group(here[track, seq].read_bytes())
        need((session, of) == (head["id"], track) and node == nodes[track // 8], "it is of another session, point or track")
        need(seen == {field: entry[field] for field in seen}, "it is not what its point signed")
        return True

    for (track, seq), entry in sorted(listed.items()):
        where = f"groups/{track // 8}-{KINDS[track % 8]}/{seq:010}.group"
        if (track, seq) in here:
            good += attempt(where, read_group, track, seq, entry) or 0
        elif not is_gap(track, seq):
            faults.append(f"{where}: it is not here, and the journal does not say so")
    for track, seq in sorted(set(here) - set(listed)):
        unsigned = seq >= ends.get(track, 0)
        if not unsigned or head["state"] == "ended" and track // 8 not in removed:
            faults.append(f"groups/{track // 8}-{KINDS[track % 8]}/{seq:010}.group: it is signed by nobody")
    if faults:
        raise Bad("; ".join(faults))
    return f"recording of {head['id'].hex()}: {good} groups, {sum(map(len, chains.values()))} segments"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--authority", type=bytes.fromhex)
    arguments.add_argument("--central", type=bytes.fromhex)
    arguments.add_argument("kind", choices=["membership", "journal", "segments", "manifest", "recording"])
    arguments.add_argument("files", nargs="+")
    given = arguments.parse_args()
    checks = {"membership": membership, "journal": journal, "segments": segments, "manifest": manifests}
    check = (checks | {"recording": recording})[given.kind]
    all_good = True
    for path in given.files:
        try:
            what = path if given.kind == "recording" else Path(path).read_bytes()
            print(f"{path}: good: {check(what, given.authority, given.central)}")
        except Bad as fault:
            all_good = False
            print(f"{path}: bad: {fault}")
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            all_good = False
            print(f"{path}: bad: a field is of another kind ({error})")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
