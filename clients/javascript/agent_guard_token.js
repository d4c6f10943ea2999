// Derives from tokens of agent_guard and answers challenges with them, offline (docs/token.md). Node's own modules only.
//
// A token (agt1...) is a secret. A proof (agp1...) answers one challenge of one session and is useless elsewhere. What a
// block may say and how large it may be is judged by the server; here only the types of its values are.
"use strict";

const { createHash, createHmac, randomBytes } = require("node:crypto");

const TOKEN = /^agt1\.([\w-]{27}(?:\.[\w-]+)+)\.([\w-]{43})$/;
const CHALLENGE = /^agc1\.[\w-]{32}(?:\.[\w-]{43})?$/;

/** A child's token for the agent `sub`. A claim that is not given is inherited; `exp` is then the parent's. */
function derive(token, sub, claims = {}) {
  const block = { exp: expiresAt(token), ...claims, sub, jti: randomBytes(16).toString("base64url") };
  for (const [key, value] of Object.entries(block)) {
    const strings = Array.isArray(value) && Array.from(value).every((item) => typeof item === "string");
    if (!(typeof value === "string" || Number.isSafeInteger(value) || value === true || strings)) {
      throw new TypeError(`${key}: a claim is a string, a whole number, true or a list of strings; never null`);
    }
  }
  return extend(token, JSON.stringify(block));
}

/** The token with one more block, given as JSON text. The parent's tag cannot be recovered from it. */
function extend(token, block) {
  const [chain, tag] = split(token);
  const text = Buffer.from(block, "utf8").toString("base64url");
  return `agt1.${chain}.${text}.${mac(tag, "agt1/block." + text)}`;
}

/** The proof that answers the challenge of a session: what goes into SET agent_guard.token. */
function prove(token, challenge) {
  const [chain, tag] = split(token);
  if (!CHALLENGE.test(challenge)) throw new TypeError("not a challenge");
  return `agp1.${chain}.${mac(tag, "agp1/proof." + challenge)}`;
}

/** The public ids of the blocks of a token or a proof, the root's first. Revocation goes by them. */
function blockIds(text) {
  const chain = text.split(".").slice(1, -1);
  const prefixes = chain.slice(1).map((_, at) => chain.slice(0, at + 2).join("."));
  return prefixes.map((prefix) => createHash("sha256").update("agt1/bid." + prefix).digest("hex").slice(0, 32));
}

/** The earliest `exp` of the blocks, in unix seconds. Reckon a child's `exp` from it, not from a clock. */
function expiresAt(token) {
  const blocks = split(token)[0].split(".").slice(1);
  return Math.min(...blocks.map((block) => JSON.parse(decode(block).toString("utf8")).exp));
}

function split(token) {
  const parts = TOKEN.exec(token);
  if (!parts) throw new TypeError("not a token; a proof can be neither derived from nor proved again");
  return [parts[1], decode(parts[2])];
}

function mac(key, message) {
  return createHmac("sha256", key).update(message).digest("base64url");
}

function decode(text) {
  const raw = Buffer.from(text, "base64url");
  if (raw.toString("base64url") !== text) throw new TypeError("not base64url in its one spelling");
  return raw;
}

module.exports = { derive, extend, prove, blockIds, expiresAt };
