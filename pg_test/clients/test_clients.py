"""The clients that docs/token.md shows, against the vectors, against each other and against the verifier of the server.

Each client gets the same calls: Python in this process, Node and Go as programs that answer line by line. The verifier
is examples/token_check.rs over the same core that runs in the server. No PostgreSQL is needed. What is random comes from
a seed that is printed; CLIENTS_SEED repeats it.
"""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import random
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "pg_test" / "t"), str(TOP / "clients" / "python")]

import agent_guard_token  # noqa: E402
import guard  # noqa: E402

HERE = TOP / "pg_test" / "clients"
VECTORS = json.loads((TOP / "pg_test" / "vectors" / "token.json").read_text())
NOW = VECTORS["here"]["now"]
CHALLENGE = "agc1." + "A" * 32
CHAINS = 40

SEED = os.environ.get("CLIENTS_SEED") or str(random.SystemRandom().randrange(10**9))
RANDOM = random.Random(SEED)

SHOWN = {"python": "clients/python/agent_guard_token.py", "javascript": "clients/javascript/agent_guard_token.js",
         "go": "clients/go/agentguardtoken/token.go"}


class Refused(Exception):
    """A client has raised or returned an error."""


class Python:
    odd = [float("nan"), b"x", {"a"}]

    def call(self, name, *given):
        try:
            if name == "derive":
                token, sub, claims = given
                return agent_guard_token.derive(token, sub, **claims)
            return getattr(agent_guard_token, name)(*given)
        except ValueError as error:
            raise Refused(str(error)) from error


class Program:
    """A client behind a program that answers one line for each line. `odd` are names of values that JSON does not have; the
    program puts the values there."""

    def __init__(self, *command, odd):
        self.odd = odd
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, name, *given):
        self.process.stdin.write(json.dumps([name, *given]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["value"]


CLIENTS = {}
VERIFIER = []


def setup():
    print(f"# CLIENTS_SEED={SEED}", flush=True)
    out = pathlib.Path(os.environ.get("GUARD_TARGET", TOP / "target")).resolve()
    calls = out / "clients" / "calls"
    environment = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOCACHE": str(out / "clients" / "go-cache")}
    subprocess.run(["go", "vet", "./..."], cwd=HERE / "go", env=environment, check=True)
    subprocess.run(["go", "build", "-o", str(calls), "."], cwd=HERE / "go", env=environment, check=True)
    command = ["cargo", "build", "--quiet", "--no-default-features", "--example", "token_check", "--target-dir", str(out)]
    subprocess.run(command, cwd=TOP, check=True)
    VERIFIER.append(str(out / "debug" / "examples" / "token_check"))
    CLIENTS.update(python=Python(),
                   javascript=Program("node", str(HERE / "calls.js"), odd=["undefined", "NaN", "hole"]),
                   go=Program(str(calls), odd=["nil list"]))


# --- the server's side: a root to derive from, and the verdict ---


def sign(key, message):
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def encoded(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def said(block):
    """The JSON text of a block."""
    return base64.urlsafe_b64decode(block + "=" * (-len(block) % 4)).decode()


def root_of(block):
    """The window's root token over a block's text; only the server can make one."""
    head = encoded(VECTORS["key"]["kid"].to_bytes(4, "big") + bytes.fromhex(VECTORS["key"]["window"]))
    tag = sign(bytes.fromhex(VECTORS["key"]["window_key"]), "agt1/head." + head)
    return f"agt1.{head}.{block}.{encoded(sign(tag, 'agt1/block.' + block))}"


def root(**claims):
    return root_of(encoded(json.dumps({"jti": "A" * 22, "sub": "root", "exp": NOW + 3600, **claims}).encode()))


def verdicts(*presented):
    """What the core says of each text or (text, challenge)."""
    here = VECTORS["here"]
    setting = [VECTORS["key"]["window_key"], str(NOW), here["role"], here["database"], here["system_user"], here["policy"], here["agent"]]
    lines = ["\t".join(setting), *("\t".join(one) if isinstance(one, tuple) else one for one in presented)]
    done = subprocess.run(VERIFIER, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    answers = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(answers) == len(presented), answers
    return answers


# --- random chains that the server accepts ---

ACTS = ["select", "insert", "update", "delete", "merge", "copy_to", "copy_from", "call", "ddl", "explain"]
PATTERNS = ["app.*", "*.*", "app.orders", "a*.o*", "*.caf\u00e9", "a<&>b.x"]


def narrower(before):
    """Random claims that claim no more than `before`, the claims so far of the chain."""
    claims = {}
    if RANDOM.random() < 0.7:
        claims["exp"] = before["exp"] - RANDOM.randrange(0, 60)
    for name, among in (("act", before.get("act", ACTS)), ("rel", PATTERNS)):
        if RANDOM.random() < 0.5:
            claims[name] = RANDOM.sample(among, RANDOM.randint(1, len(among)))
    for name in ("rows", "bytes", "stmts", "uses", "sess"):
        if RANDOM.random() < 0.4:
            claims[name] = RANDOM.randint(1, before.get(name, 2**53 - 1))
    fixed = {"role": "agent_rw", "db": "prod", "auth": "oauth:alice", "pol": ["reporting"], "cidr": ["local", "10.0.0.0/8"], "nbf": NOW,
             "why": 'caf\u00e9 "\U0001f600" </script>', "pop": True}
    claims |= {name: value for name, value in fixed.items() if RANDOM.random() < 0.25}
    return claims


def chain_by(makers):
    """The tokens of a random chain, each derived from the one before by the next maker, and what was asked for."""
    tokens, asked, before = [root()], [], {"exp": NOW + 3600}
    for at, maker in enumerate(makers):
        claims = narrower(before)
        sub = f"agent/{at}"
        tokens.append(CLIENTS[maker].call("derive", tokens[-1], sub, claims))
        before |= claims
        asked.append({"exp": before["exp"], **claims, "sub": sub})
    return tokens, asked


def ids_of(token):
    """By the definition, apart from the clients."""
    chain = token.split(".")[1:-1]
    return [hashlib.sha256(("agt1/bid." + ".".join(chain[: n + 1])).encode()).digest()[:16].hex() for n in range(1, len(chain))]


def check_chain(tokens, asked, others):
    """The others make the same of the same blocks, and the core accepts and reads what was asked for."""
    for parent, child, claims in zip(tokens, tokens[1:], asked):
        block = child.split(".")[-2]
        written = json.loads(said(block))
        assert {**claims, "jti": written["jti"]} == written, f"asked for {claims}, written {written}"
        challenge = "agc1." + encoded(RANDOM.randbytes(24))
        proofs = set()
        for other in others:
            assert CLIENTS[other].call("extend", parent, said(block)) == child, f"{other} makes another token of {written}"
            assert CLIENTS[other].call("block_ids", child) == ids_of(child), other
            assert CLIENTS[other].call("expires_at", child) == claims["exp"], other
            proofs.add(CLIENTS[other].call("prove", child, challenge))
        assert len(proofs) == 1, proofs
        (proof,) = proofs
        by_proof, by_token = verdicts((proof, challenge), child)
        assert by_proof[0] == "accepted", f"{by_proof} for {written}"
        assert by_proof[1].split(",") == ids_of(child)
        assert json.loads(by_proof[2]) == written
        pop = any(json.loads(said(block)).get("pop") for block in child.split(".")[2:-1])
        assert by_token[:2] == (["refused", "bearer_not_allowed"] if pop else by_proof[:2]), by_token


def test_children_of_each_client_are_the_others_and_verify():
    for maker in CLIENTS:
        for _ in range(CHAINS // 2):
            check_chain(*chain_by([maker] * RANDOM.randint(1, 3)), [*CLIENTS])


def test_chains_of_mixed_clients_verify():
    for _ in range(CHAINS // 2):
        check_chain(*chain_by(RANDOM.choices([*CLIENTS], k=RANDOM.randint(2, 4))), [*CLIENTS])


def check_vectors(client):
    proofs = 0
    for vector in VECTORS["accept"]:
        blocks = vector["text"].split(".")[2:-1]
        text = root_of(blocks[0])
        for block in blocks[1:]:
            text = client.call("extend", text, said(block))
        assert client.call("block_ids", text) == vector["block_ids"], vector["name"]
        if vector["challenge"]:
            text = client.call("prove", text, vector["challenge"])
            proofs += 1
        assert text == vector["text"], vector["name"]
        assert client.call("block_ids", text) == vector["block_ids"], vector["name"]
    assert proofs >= 3


def check_derived_claims(client):
    token = root(exp=NOW + 100)
    child = client.call("derive", token, "a", {"exp": NOW + 40})
    grandchild = client.call("derive", child, "b", {})
    assert [client.call("expires_at", text) for text in (token, child, grandchild)] == [NOW + 100, NOW + 40, NOW + 40]
    assert set(json.loads(said(grandchild.split(".")[-2]))) == {"jti", "sub", "exp"}, "what is not given is not written"
    twin = client.call("derive", child, "b", {"jti": "A" * 22, "sub": "other"} if not isinstance(client, Python) else {"jti": "A" * 22})
    written = json.loads(said(twin.split(".")[-2]))
    assert (written["sub"], len(written["jti"])) == ("b", 22) and written["jti"] != "A" * 22
    assert client.call("block_ids", twin)[:2] == client.call("block_ids", grandchild)[:2]
    assert client.call("block_ids", twin)[2] != client.call("block_ids", grandchild)[2]
    assert child.split(".")[-1] not in grandchild, "the parent's tag is gone"


def check_refusals(client):
    token = root()
    proof = client.call("prove", token, CHALLENGE)
    head, block, tag = token.split(".")[1:]
    texts = {
        "a proof": proof,
        "the next version": token.replace("agt1", "agt2", 1),
        "upper case": token.replace("agt1", "AGT1", 1),
        "a newline behind": token + "\n",
        "a space before": " " + token,
        "padding": token + "=",
        "a short tag": token[:-1],
        "a long tag": token + "A",
        "no block": f"agt1.{head}.{tag}",
        "an empty block": f"agt1.{head}..{tag}",
        "a short head": f"agt1.{head[:-1]}.{block}.{tag}",
        "the standard alphabet": f"agt1.{head}.{block}.{'+' + tag[1:]}",
        "another script's letter": f"agt1.{head}.{block}.{chr(0xe9) + tag[1:]}",
        "another script's letter in the head": f"agt1.{head[:-1] + chr(0xe9)}.{block}.{tag}",
        "a spare bit": token[:-1] + chr(ord(token[-1]) + 1),
        "nothing": "",
    }
    for name, text in texts.items():
        for call in (("derive", text, "a", {}), ("extend", text, "{}"), ("prove", text, CHALLENGE), ("expires_at", text)):
            refuses(client, f"{call[0]} from {name}", *call)
        if "\n" not in text:
            assert verdicts(text)[0][:2] == ["refused", "proof_stale" if text == proof else "token_refused"], name
    for nonce in ("", "agc1.", "A" * 32, CHALLENGE + "A", CHALLENGE + "\n", " " + CHALLENGE, CHALLENGE + ".", CHALLENGE + "." + "A" * 42, "agc2." + "A" * 32):
        refuses(client, f"answering {nonce!r}", "prove", token, nonce)
    for value in (None, False, 1.5, {}, {"a": 1}, [1], [None], ["a", None], [["a"]], [True], *client.odd):
        refuses(client, f"the claim {value!r}", "derive", token, "a", {"why": value})


def refuses(client, what, *call):
    try:
        value = client.call(*call)
    except Refused:
        return
    raise AssertionError(f"{what} is not refused: {value}")


def check_what_the_server_judges(client):
    """Not refused by the clients, and refused by the core for its own reason."""
    derive = lambda parent, **claims: client.call("derive", parent, "a", claims)  # noqa: E731
    deep = root()
    for _ in range(7):
        deep = derive(deep)
    proof = client.call("prove", root(), CHALLENGE)
    other = "agc1." + "B" * 32
    # What a holder of a proof could make of it by hand: its answer as a tag.
    by_hand = client.call("extend", proof.replace("agp1", "agt1", 1), said(root().split(".")[2]))
    cases = [
        (deep, "accepted"),
        (derive(deep), "token_refused"),
        (derive(root(depth=0)), "too_deep"),
        (derive(root(), exp=NOW + 3601), "wider_than_parent"),
        (derive(root(rows=5), rows=6), "wider_than_parent"),
        (derive(root(), exp=NOW), "expired"),
        (derive(root(), act=[]), "caveat_malformed"),
        (derive(root(), role=""), "caveat_malformed"),
        (derive(root(), rows=0), "caveat_malformed"),
        (derive(root(), rows=-1), "caveat_malformed"),
        (derive(root(), act=["SELECT"]), "caveat_malformed"),
        (derive(root(), pol=[str(n) for n in range(65)]), "caveat_malformed"),
        (derive(root(), role_="x"), "caveat_malformed"),
        (derive(root(), pol=["x" * 100 + str(n) for n in range(60)]), "token_refused"),
        (derive(root(), appr=["dba"]), "approval_missing"),
        ((proof, CHALLENGE), "accepted"),
        ((proof, other), "token_refused"),
        ((proof, ""), "proof_stale"),
        (by_hand, "token_refused"),
    ]
    for (_, wanted), (verdict, reason, *_) in zip(cases, verdicts(*(case[0] for case in cases))):
        assert wanted == (verdict if verdict == "accepted" else reason), f"expected {wanted}, got {verdict} {reason}"


def for_each_client(name, check):
    def test_of(client):
        return lambda: check(CLIENTS[client])

    for client in SHOWN:
        globals()[f"test_{client}_{name}"] = test_of(client)


for_each_client("reproduces_the_vectors", check_vectors)
for_each_client("inherits_the_expiry_and_writes_what_is_given", check_derived_claims)
for_each_client("refuses_proofs_and_what_is_no_token", check_refusals)
for_each_client("leaves_limits_and_meaning_to_the_server", check_what_the_server_judges)


# --- the documentation ---


def fenced(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (TOP / page).read_text(), flags=re.S | re.M)


def test_the_documentation_shows_the_clients_as_they_are():
    for language, path in SHOWN.items():
        assert fenced("docs/token.md", language) == [(TOP / path).read_text()], f"docs/token.md does not show {path} as it is"


def test_the_documentation_names_every_key_word_and_reason():
    page = (TOP / "docs" / "token.md").read_text()
    code = {name: (TOP / "src" / "token" / f"{name}.rs").read_text().split("#[cfg(test)]")[0] for name in ("claims", "act", "refusals")}
    keys = re.findall(r'"(\w+)"', re.search(r"const KEYS.*?= \[(.*?)\];", code["claims"], re.S)[1])
    acts = re.findall(r'=> "(\w+)"', code["act"])
    verbs = re.findall(r'Verb::\w+ => "(\w+)"', (TOP / "src" / "request.rs").read_text())
    reasons = re.findall(r'Refusal::handshake\(\s*"(\w+)"', code["refusals"])
    assert (len(keys), len(acts), len(verbs)) == (20, 8, 21) and len(set(reasons)) > 15, (keys, acts, verbs, reasons)
    words = {word for quoted in re.findall(r"`([^`\n]+)`", page) for word in quoted.split()}
    missing = [word for word in [*keys, *acts, *verbs, *reasons] if word not in words]
    assert not missing, f"docs/token.md does not name {missing}"


def test_the_readme_derives_and_proves_like_the_clients():
    (short,) = fenced("README.md", "python")
    functions = {}
    exec(short, functions)
    token = root()
    child = functions["derive"](token, sub="sql", exp=NOW + 60, act=["select"], rel=["app.orders"])
    assert CLIENTS["python"].call("extend", token, said(child.split(".")[-2])) == child
    assert functions["prove"](child, CHALLENGE) == CLIENTS["python"].call("prove", child, CHALLENGE)
    assert functions["block_id"](child) == CLIENTS["python"].call("block_ids", child)[-1]
    by_token, by_proof = verdicts(child, (functions["prove"](child, CHALLENGE), CHALLENGE))
    assert by_token[0] == by_proof[0] == "accepted"
    for call in (lambda text: functions["derive"](text, sub="x", exp=NOW + 1), lambda text: functions["prove"](text, CHALLENGE)):
        try:
            call(functions["prove"](child, CHALLENGE))
        except ValueError:
            continue
        raise AssertionError("a proof is not refused")


if __name__ == "__main__":
    guard.run_without_server(globals())
