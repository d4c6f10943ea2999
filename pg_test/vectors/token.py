#!/usr/bin/env python3
"""Writes token.json: texts that a verifier must accept or refuse, made without any of the code under test.

Standard library only. Run it from anywhere; the output is the same every time.
"""
import base64
import hashlib
import hmac
import json
import pathlib

MASTER, WINDOW, SALT = bytes(range(32)), bytes(range(16)), bytes(range(16, 32))
SYSID, DBOID, KID, NOW = 7300000000000000001, 16384, 1, 1790000000


def text_of(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def bytes_of(text):
    return base64.urlsafe_b64decode(text + "==="[: -len(text) % 4])


def sign(key, label, message):
    return hmac.new(key, label + message, hashlib.sha256).digest()


def key_of(sysid=SYSID, dboid=DBOID, window=WINDOW, salt=SALT):
    return sign(MASTER, b"agent_guard/v1/window", sysid.to_bytes(8, "big") + dboid.to_bytes(4, "big") + window + salt)


def head_of(kid=KID, window=WINDOW):
    return text_of(kid.to_bytes(4, "big") + window)


def jti(n):
    return text_of(bytes([n]) * 16)


def block(**claims):
    return text_of(json.dumps(claims, separators=(",", ":")).encode())


class Chain:
    """A head, block texts (whatever they say) and the tag that signs them."""

    def __init__(self, blocks, key=None, head=None):
        self.head, self.blocks = head or head_of(), list(blocks)
        self.roots = sign(key or key_of(), b"agt1/head.", self.head.encode())
        self.tag = self.roots
        for text in self.blocks:
            self.tag = sign(self.tag, b"agt1/block.", text.encode())

    def public(self):
        return ".".join([self.head, *self.blocks])

    def bearer(self, tag=None):
        return f"agt1.{self.public()}.{text_of(tag or self.tag)}"

    def answer(self, challenge):
        return sign(self.tag, b"agp1/proof.", challenge.encode())

    def proof(self, challenge):
        return f"agp1.{self.public()}.{text_of(self.answer(challenge))}"

    def ids(self):
        prefixes = [".".join([self.head, *self.blocks[: i + 1]]) for i in range(len(self.blocks))]
        return [hashlib.sha256(b"agt1/bid." + prefix.encode()).digest()[:16].hex() for prefix in prefixes]


CHALLENGE = "agc1." + text_of(bytes(range(24)))
BOUND = CHALLENGE + "." + text_of(hashlib.sha256(b"certificate").digest())
OTHER = "agc1." + text_of(bytes(range(1, 25)))

B0 = block(jti=jti(0), sub="planner", exp=1790003600, pol=["reporting", "support"], act=["select", "insert"],
           rel=["app.*"], rows=100000, role="agent_rw", db="prod", depth=3)
B1 = block(jti=jti(1), sub="researcher", exp=1790001800, pol=["reporting"], act=["select"], rows=20000)
B2 = block(jti=jti(2), sub="sql", exp=1790000660, rel=["app.orders"], uses=1)
SIBLING = block(jti=jti(3), sub="writer", exp=1790001800, act=["insert"])
PLAIN = block(jti=jti(4), sub="root", exp=1790003600)

root, child, leaf = Chain([B0]), Chain([B0, B1]), Chain([B0, B1, B2])
accept, refuse = [], []


def good(name, chain, text=None, challenge=None):
    accept.append(dict(name=name, text=text or chain.bearer(), challenge=challenge, block_ids=chain.ids()))


def bad(attack, name, text, reason="token_refused", block=None, field=None, challenge=None):
    refuse.append(dict(attack=attack, name=name, text=text, challenge=challenge, reason=reason, block=block, field=field))


def raw_root(json_text):
    raw = json_text if isinstance(json_text, bytes) else json_text.encode()
    return Chain([text_of(raw)]).bearer()


def with_root(more, base='"jti":"%s","sub":"r","exp":1790003600' % jti(5)):
    return raw_root("{" + base + more + "}")


good("root", root)
good("child", child)
good("grandchild", leaf)
good("proof of the grandchild", leaf, leaf.proof(CHALLENGE), CHALLENGE)
good("proof bound to a certificate", leaf, leaf.proof(BOUND), BOUND)
good("white space and another order of keys",
     Chain([text_of(b'{ "exp" : 1790003600,\n\t"sub":"r" ,"jti":"%s"}' % jti(6).encode())]))
good("escapes in a key and a value",
     Chain([text_of(b'{"j\\u0074i":"%s","sub":"r","exp":1790003600,"why":"caf\\u00e9 \\ud83d\\ude00"}' % jti(6).encode())]))
good("raw UTF-8", Chain([text_of('{"jti":"%s","sub":"r","exp":1790003600,"why":"caf\u00e9"}'.replace("%s", jti(6)).encode())]))
good("eight blocks", Chain([PLAIN] + [block(jti=jti(10 + i), sub="c%d" % i, exp=1790003600 - i) for i in range(7)]))
good("every caveat but pop and appr", Chain([block(
    jti=jti(7), sub="all", exp=1790003600, nbf=1790000005, pol=["reporting"], act=["select", "merge", "copy_to", "ddl"],
    rel=["app.*", "*.x", "a*.b*"], rows=1, bytes=2**53 - 1, stmts=1, role="agent_rw", db="prod",
    cidr=["local", "10.0.0.0/8"], auth="oauth:alice", depth=0, uses=1, sess=1, why="x" * 200)]))
good("pop with a proof", Chain([block(jti=jti(8), sub="p", exp=1790003600, pop=True)]),
     Chain([block(jti=jti(8), sub="p", exp=1790003600, pop=True)]).proof(CHALLENGE), CHALLENGE)
full = '{"jti":"%s","sub":"r","exp":1790003600}' % jti(9)
good("1024 bytes", Chain([text_of(full[:-1].encode() + b" " * (1024 - len(full)) + b"}")]))

# 1: a flipped character in each segment (the sweep over all of them is in the unit tests).
for at, what in ((0, "form"), (3, "version"), (10, "head"), (60, "block"), (-1, "tag")):
    text = leaf.bearer()
    at %= len(text)
    bad(1, f"flipped {what}", text[:at] + ("B" if text[at] != "B" else "A") + text[at + 1:])
# 2
bad(2, "last block dropped", child.bearer(leaf.tag))
bad(2, "middle block dropped", Chain([B0, B2]).bearer(leaf.tag))
bad(2, "first block dropped", Chain([B1, B2]).bearer(leaf.tag))
bad(2, "blocks reordered", Chain([B0, B2, B1]).bearer(leaf.tag))
bad(2, "block doubled", Chain([B0, B1, B1]).bearer(child.tag))
# 3
elsewhere = head_of(window=bytes(range(1, 17)))
bad(3, "blocks under the head of another window", Chain(leaf.blocks, head=elsewhere).bearer(leaf.tag))
bad(3, "child's block under a sibling", Chain([B0, SIBLING, B2]).bearer(leaf.tag))
# 4
bad(4, "child stripped to its parent, keeping its tag", root.bearer(child.tag))
bad(4, "child stripped to its parent, no tag", f"agt1.{root.public()}.{'A' * 43}")
# 5
bad(5, "proof's answer as a tag", leaf.bearer(leaf.answer(CHALLENGE)))
forged = sign(leaf.answer(CHALLENGE), b"agt1/block.", SIBLING.encode())
bad(5, "derived from a proof", Chain([*leaf.blocks, SIBLING]).bearer(forged))
bad(5, "proof presented as a token", leaf.proof(CHALLENGE).replace("agp1", "agt1", 1))
bad(5, "token presented as a proof", leaf.bearer().replace("agt1", "agp1", 1), challenge=CHALLENGE)
# 6
as_block = sign(child.tag, b"agt1/block.", CHALLENGE.encode())
bad(6, "block whose text is the challenge", f"agp1.{child.public()}.{text_of(as_block)}", challenge=CHALLENGE)
bad(6, "challenge text as a block", f"agt1.{child.public()}.{CHALLENGE}.{text_of(child.answer(CHALLENGE))}")
bad(6, "answer to a challenge that is a block's text", Chain([*child.blocks, B2]).bearer(child.answer(B2)))
# 7
bad(7, "no blocks", f"agt1.{root.head}.{text_of(root.roots)}")
bad(7, "nine blocks", Chain([PLAIN] + [block(jti=jti(i), sub="c", exp=1790003600) for i in range(8)]).bearer())
big = Chain([text_of(full[:-1].encode() + b" " * (1024 - len(full)) + b"}")] * 3).bearer()
bad(7, "more than 4096 characters", big)
bad(7, "empty segment", leaf.bearer().replace("." + B1, ".." + B1))
bad(7, "trailing dot", leaf.bearer() + ".")
bad(7, "empty", "")
bad(7, "form only", "agt1")
bad(7, "next version", leaf.bearer().replace("agt1", "agt2", 1))
bad(7, "upper case", leaf.bearer().replace("agt1", "AGT1", 1))
# 8
bad(8, "padding", leaf.bearer() + "=")
bad(8, "newline behind", leaf.bearer() + "\n")
bad(8, "space before", " " + leaf.bearer())
bad(8, "standard alphabet", leaf.bearer().replace("-", "+").replace("_", "/"))
spare = {c: chr(ord(c) + 1) for c in "048AEIMQUYcgkosw"}
bad(8, "spare bit in the tag", leaf.bearer()[:-1] + spare[leaf.bearer()[-1]])
bad(8, "spare bit in the head", leaf.bearer().replace(leaf.head, leaf.head[:-1] + spare[leaf.head[-1]]))
loose = next(t for t in (block(jti=jti(9), sub="s" * n, exp=1790003600) for n in (1, 2, 3)) if len(t) % 4 == 3)
bad(8, "spare bit in a signed block", Chain([loose[:-1] + spare[loose[-1]]]).bearer())
bad(8, "signed block with padding", Chain([loose + "="]).bearer())
# 9
bad(9, "another key id", leaf.bearer().replace(leaf.head, head_of(kid=2)))
bad(9, "another cluster", Chain(leaf.blocks, key=key_of(sysid=SYSID + 1)).bearer())
bad(9, "another database", Chain(leaf.blocks, key=key_of(dboid=DBOID + 1)).bearer())
bad(9, "another salt", Chain(leaf.blocks, key=key_of(salt=bytes(16))).bearer())
# 10, 11: against another challenge a proof is a forgery like any other; with none open it is stale.
bad(10, "proof with no challenge open", leaf.proof(CHALLENGE), "proof_stale")
bad(11, "proof for another session", leaf.proof(CHALLENGE), challenge=OTHER)
bad(11, "proof without the certificate", leaf.proof(CHALLENGE), challenge=BOUND)
# 14
bad(14, "bearer under pop in the root", Chain([block(jti=jti(8), sub="p", exp=1790003600, pop=True), PLAIN]).bearer(),
    "bearer_not_allowed", 0, "pop")
bad(14, "bearer under pop in a parent", Chain([PLAIN, block(jti=jti(8), sub="p", exp=1790003600, pop=True), SIBLING]).bearer(),
    "bearer_not_allowed", 1, "pop")
# 15
for name, text in (("array", '["%s","r",1790003600]' % jti(5)), ("array of the object", "[" + full + "]"), ("two objects", full + full),
                   ("byte order mark", "\ufeff" + full), ("white space before", " " + full), ("white space behind", full + "\n"),
                   ("number", "1"), ("string", '"x"'), ("not JSON", "{}}"), ("comment", full[:-1] + "/**/}"),
                   ("trailing comma", full[:-1] + ",}")):
    bad(15, name, raw_root(text), "caveat_malformed", 0)
bad(15, "invalid UTF-8", raw_root(full[:-1].encode() + b',"why":"\xff"}'), "caveat_malformed", 0)
bad(15, "nested object", with_root(',"rows":{"a":1}'), "caveat_malformed", 0, "rows")
bad(15, "nested list", with_root(',"act":[["select"]]'), "caveat_malformed", 0, "act")
bad(15, "1025 bytes", raw_root(full[:-1] + " " * (1025 - len(full)) + "}"))
bad(15, "array in a child", Chain([B0, text_of(b'["select"]')]).bearer(), "caveat_malformed", 1)
# 16
bad(16, "key twice", with_root(',"act":["select"],"act":["delete"]'), "caveat_malformed", 0, "act")
bad(16, "key twice, once escaped", with_root(',"\\u0065xp":1790000001'), "caveat_malformed", 0, "exp")
# 17
for value in ("null", "[]", "1e3", "1.0", "-1", '"9"', "9007199254740992", "18446744073709551616", "true", "-0", "1790003600.0"):
    bad(17, f"exp {value}", with_root("", '"jti":"%s","sub":"r","exp":%s' % (jti(5), value)), "caveat_malformed", 0, "exp")
    if value != "1790003600.0":
        bad(17, f"rows {value}", with_root(f',"rows":{value}'), "caveat_malformed", 0, "rows")
bad(17, "rows 0", with_root(',"rows":0'), "caveat_malformed", 0, "rows")
bad(17, "exp missing", with_root("", '"jti":"%s","sub":"r"' % jti(5)), "caveat_malformed", 0, "exp")
bad(17, "jti missing", with_root("", '"sub":"r","exp":1790003600'), "caveat_malformed", 0, "jti")
bad(17, "NUL in a name", with_root(',"role":"agent_rw\\u0000"'), "caveat_malformed", 0, "role")
bad(17, "newline in a list item", with_root(',"pol":["reporting\\n"]'), "caveat_malformed", 0, "pol")
bad(17, "upper-case key", with_root(',"EXP":1'), "caveat_malformed", 0, "EXP")
bad(17, "null list", with_root(',"act":null'), "caveat_malformed", 0, "act")
bad(17, "empty list", with_root(',"act":[]'), "caveat_malformed", 0, "act")
bad(17, "item twice", with_root(',"act":["select","select"]'), "caveat_malformed", 0, "act")
bad(17, "65 items", with_root(',"pol":[%s]' % ",".join('"%d"' % i for i in range(65))), "caveat_malformed", 0, "pol")
bad(17, "string of 129 bytes", with_root(',"role":"%s"' % ("x" * 129)), "caveat_malformed", 0, "role")
bad(17, "why of 201 bytes", with_root(',"why":"%s"' % ("x" * 201)), "caveat_malformed", 0, "why")
bad(17, "pop false", with_root(',"pop":false'), "caveat_malformed", 0, "pop")
bad(17, "depth 8", with_root(',"depth":8'), "caveat_malformed", 0, "depth")
# 18
for key in ("cnf", "role_", "rol", "Role", "__proto__"):
    bad(18, f"unknown {key}", with_root(',"%s":"x"' % key), "caveat_malformed", 0, key)
bad(18, "unknown in a child", Chain([B0, block(jti=jti(1), sub="c", exp=1790003600, cnf="x")]).bearer(), "caveat_malformed", 1, "cnf")
# 19
wide = dict(exp=1790003601, rows=100001, depth=3, pol=["reporting", "admin"], act=["select", "delete"], role="other", db="other")
for field, value in wide.items():
    claims = dict(jti=jti(1), sub="c", exp=1790003600) | {field: value}
    bad(19, f"wider {field}", Chain([B0, block(**claims)]).bearer(), "wider_than_parent", 1, field)
for field in ("bytes", "stmts", "uses", "sess"):
    tight = block(jti=jti(1), sub="c", exp=1790003600, **{field: 5})
    middle = block(jti=jti(2), sub="d", exp=1790003600)
    loose = block(jti=jti(3), sub="e", exp=1790003600, **{field: 6})
    bad(19, f"wider {field}, two blocks on", Chain([PLAIN, tight, middle, loose]).bearer(), "wider_than_parent", 3, field)
bad(19, "another auth", Chain([block(jti=jti(1), sub="c", exp=1790003600, auth="oauth:alice"),
                               block(jti=jti(2), sub="d", exp=1790003600, auth="oauth:bob")]).bearer(), "wider_than_parent", 1, "auth")
# 22
bad(22, "child of depth 0", Chain([block(jti=jti(1), sub="c", exp=1790003600, depth=0), PLAIN]).bearer(), "too_deep", 1, "depth")
bad(22, "child resets depth", Chain([PLAIN, block(jti=jti(1), sub="c", exp=1790003600, depth=7)]).bearer(), "wider_than_parent", 1, "depth")
# 23, 33, 42 as far as they are judged at the handshake
bad(23, "expired child", Chain([B0, block(jti=jti(1), sub="c", exp=NOW)]).bearer(), "expired", 1, "exp")
bad(23, "not yet valid", with_root(',"nbf":%d' % (NOW + 6)), "not_yet_valid", 0, "nbf")
bad(33, "another role", with_root(',"role":"other"'), "wrong_role", 0, "role")
bad(33, "another database", with_root(',"db":"other"'), "wrong_database", 0, "db")
bad(33, "another address", with_root(',"cidr":["10.0.0.0/8"]'), "wrong_address", 0, "cidr")
bad(33, "another principal", with_root(',"auth":"oauth:bob"'), "wrong_principal", 0, "auth")
bad(42, "approval asked for", Chain([PLAIN, block(jti=jti(1), sub="c", exp=1790003600, appr=["dba"])]).bearer(), "approval_missing", 1, "appr")
bad(16, "nothing left of the policy", with_root(',"pol":["other"]'), "out_of_scope", 0, "pol")

vectors = dict(
    key=dict(master=MASTER.hex(), sysid=str(SYSID), dboid=DBOID, kid=KID, window=WINDOW.hex(), salt=SALT.hex(), window_key=key_of().hex()),
    here=dict(now=NOW, role="agent_rw", database="prod", peer="local", system_user="oauth:alice", policy="reporting", agent="fleet"),
    accept=accept, refuse=refuse)
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n")
print(len(accept), "accepted,", len(refuse), "refused")
