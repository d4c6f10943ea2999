// Calls the JavaScript client for test_clients.py: a JSON list [function, argument...] a line, one JSON object a line back.
"use strict";

const readline = require("node:readline");
const client = require("../../clients/javascript/agent_guard_token.js");

// Values that JSON does not have.
const odd = { undefined, NaN, hole: [, "a"] };
const functions = { ...client, block_ids: client.blockIds, expires_at: client.expiresAt };

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [name, ...given] = JSON.parse(line);
  const claims = given[2] ?? {};
  for (const key in claims) if (claims[key] in odd) claims[key] = odd[claims[key]];
  let answer;
  try {
    answer = { value: functions[name](...given) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
