"""What a client does with a token, as docs/token.md says: derive a child's, prove it, name its last block."""

import base64
import hashlib
import hmac
import json
import os
import time


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token):
    """What the last block says."""
    return json.loads(unb64(token.split(".")[-2]))


def child(token, seconds=None, **claims):
    """A child's token; its end is the parent's, or so many seconds from now."""
    parts = token.split(".")
    end = claims_of(token)["exp"] if seconds is None else int(time.time()) + seconds
    claims = {"jti": b64(os.urandom(16)), "sub": "child", "exp": end, **claims}
    block = b64(json.dumps(claims).encode())
    tag = hmac.new(unb64(parts[-1]), b"agt1/block." + block.encode(), hashlib.sha256).digest()
    return ".".join([*parts[:-1], block, b64(tag)])


def prove(token, challenge):
    """The answer to a challenge."""
    parts = token.split(".")
    tag = hmac.new(unb64(parts[-1]), b"agp1/proof." + challenge.encode(), hashlib.sha256).digest()
    return ".".join(["agp1", *parts[1:-1], b64(tag)])


def block_id(token):
    """The id of the last block, as revoke_block takes it."""
    return hashlib.sha256(b"agt1/bid." + ".".join(token.split(".")[1:-1]).encode()).digest()[:16].hex()
