"""Derives from tokens of agent_guard and answers challenges with them, offline (docs/token.md). Standard library only.

A token (agt1...) is a secret. A proof (agp1...) answers one challenge of one session and is useless elsewhere. What a
block may say and how large it may be is judged by the server; here only the types of its values are.
"""

import base64
import hashlib
import hmac
import json
import os
import re

TOKEN = re.compile(r"agt1\.([\w-]{27}(?:\.[\w-]+)+)\.([\w-]{43})", re.ASCII)
CHALLENGE = re.compile(r"agc1\.[\w-]{32}(?:\.[\w-]{43})?", re.ASCII)


def derive(token, sub, **claims):
    """A child's token for the agent `sub`. A claim that is not given is inherited; `exp` is then the parent's."""
    block = {"exp": expires_at(token), **claims, "sub": sub, "jti": _encode(os.urandom(16))}
    for key, value in block.items():
        strings = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        if not (isinstance(value, str) or type(value) is int or value is True or strings):
            raise ValueError(f"{key}: a claim is a string, a whole number, True or a list of strings; never None")
    return extend(token, json.dumps(block, separators=(",", ":")))


def extend(token, block):
    """The token with one more block, given as JSON text. The parent's tag cannot be recovered from it."""
    chain, tag = _split(token)
    text = _encode(block.encode())
    return f"agt1.{chain}.{text}.{_mac(tag, 'agt1/block.' + text)}"


def prove(token, challenge):
    """The proof that answers the challenge of a session: what goes into SET agent_guard.token."""
    chain, tag = _split(token)
    if not CHALLENGE.fullmatch(challenge):
        raise ValueError("not a challenge")
    return f"agp1.{chain}.{_mac(tag, 'agp1/proof.' + challenge)}"


def block_ids(text):
    """The public ids of the blocks of a token or a proof, the root's first. Revocation goes by them."""
    chain = text.split(".")[1:-1]
    prefixes = [".".join(chain[:end]) for end in range(2, len(chain) + 1)]
    return [hashlib.sha256(("agt1/bid." + prefix).encode()).hexdigest()[:32] for prefix in prefixes]


def expires_at(token):
    """The earliest `exp` of the blocks, in unix seconds. Reckon a child's `exp` from it, not from a clock."""
    blocks = _split(token)[0].split(".")[1:]
    return min(json.loads(_decode(block))["exp"] for block in blocks)


def _split(token):
    parts = TOKEN.fullmatch(token)
    if not parts:
        raise ValueError("not a token; a proof can be neither derived from nor proved again")
    return parts[1], _decode(parts[2])


def _mac(key, message):
    return _encode(hmac.new(key, message.encode(), hashlib.sha256).digest())


def _encode(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text):
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encode(raw) != text:
        raise ValueError("not base64url in its one spelling")
    return raw
