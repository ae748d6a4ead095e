"""Checks records of a mesh without a line of its program, from the description of their bytes alone.

    verify.py [--authority KEY] [--central KEY] KIND FILE...

KIND is `membership` (`DATA/roster.cose`: the roster and the admissions beside it) or `journal` (entries one after the
other, each behind its length in four bytes). Prints one line for each file, `good` or `bad` with the first fault, and
ends with 1 if any is bad. CBOR, Ed25519 and BLAKE3 are public libraries; COSE (RFC 9052) is a page of them.
"""

import argparse
import sys

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

FIELDS = {
    ROSTER: {"number", "prev", "agency", "recovery", "issued_unix_ms", "points", "revoked", "void"},
    GRANT: {"id", "issuer", "name", "level", "zone", "rights", "replaces", "key", "not_after_unix_ms"},
    ADMISSION: {"grant", "node", "wrap", "addresses", "proof", "unix_ms"},
    ENTRY: {"n", "prev", "session", "at_us", "wall_ms", "event"},
}


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
    need(not unprotected, "a record has an unprotected header")
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


def journal(data, _authority, central):
    before, session, n = NONE, None, 0
    for record in records(data):
        entry, signer = signed(record, ENTRY)
        central = central or signer
        session = session or entry["session"]
        need(signer == central, f"entry {n} is signed by {signer.hex()}")
        need(entry["session"] == session, f"entry {n} is of another session")
        need(entry["n"] == n, f"entry {n} is missing, {entry['n']} comes")
        need(entry["prev"] == before, f"entry {n} does not follow the one before it")
        before, n = blake3(record).digest(), n + 1
    need(n, "there is no entry")
    return f"journal of {session.hex()}: {n} entries, the last is {before.hex()}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--authority", type=bytes.fromhex)
    arguments.add_argument("--central", type=bytes.fromhex)
    arguments.add_argument("kind", choices=["membership", "journal"])
    arguments.add_argument("files", nargs="+")
    given = arguments.parse_args()
    check = {"membership": membership, "journal": journal}[given.kind]
    all_good = True
    for path in given.files:
        try:
            with open(path, "rb") as file:
                print(f"{path}: good: {check(file.read(), given.authority, given.central)}")
        except Bad as fault:
            all_good = False
            print(f"{path}: bad: {fault}")
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            all_good = False
            print(f"{path}: bad: a field is of another kind ({error})")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
