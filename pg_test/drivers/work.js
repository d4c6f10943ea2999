// node-postgres at work: runs every piece by itself and prints one JSON object of their outcomes.
// The connection comes in PGHOST, PGPORT, PGUSER, PGDATABASE and PGOPTIONS; the refused statements as JSON on stdin.
'use strict'

const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const { to: copyTo, from: copyFrom } = require('pg-copy-streams')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')

const names = 'select genre_id, name from genre where genre_id > $1 order by genre_id'

async function rolledBack(client, work) {
  await client.query('begin')
  try {
    return await work()
  } finally {
    await client.query('rollback')
  }
}

async function read(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString('hex')
}

const work = {
  simple: (client) => client.query('select * from track order by track_id limit 20').then((r) => r.rows),
  severalStatements: (client) => client.query('select 1 as a; select count(*) from album').then((all) => all.map((r) => r.rows)),
  extended: (client) => client.query(names, [10]).then((r) => [r.rows, r.rowCount, r.command, r.fields.map((f) => f.dataTypeID)]),
  binary: (client) => client.query({ text: names, values: [10], binary: true }).then((r) => r.rows.length),
  arrayRows: (client) => client.query({ text: names, values: [3], rowMode: 'array' }).then((r) => r.rows),
  async named(client) {
    const results = []
    for (let n = 0; n < 15; n++) results.push((await client.query({ name: 'genres', text: names, values: [n] })).rows)
    return results
  },
  async cursor(client) {
    const cursor = client.query(new Cursor('select track_id from track order by track_id'))
    const pieces = []
    for (let rows; (rows = await cursor.read(500)).length > 0; ) pieces.push(rows.length, rows[0])
    await cursor.close()
    return pieces
  },
  copyOut: (client) => read(client.query(copyTo('copy genre to stdout'))),
  copyQueryOut: (client) => read(client.query(copyTo('copy (select name from artist order by 1) to stdout (format csv)'))),
  copyIn: (client) =>
    rolledBack(client, async () => {
      await pipeline(Readable.from(['910\tone\n', '911\ttwo\n']), client.query(copyFrom('copy playlist from stdin')))
      return (await client.query('select * from playlist where playlist_id > 900 order by 1')).rows
    }),
  insert: (client) =>
    rolledBack(client, () => client.query('insert into playlist values ($1, $2) returning *', [920, 'new']).then((r) => r.rows)),
  uniqueViolation: (client) =>
    client.query("insert into playlist values (1, 'twice')").catch((e) => [e.code, e.constraint, e.table, e.schema, e.detail]),
  syntaxError: (client) => client.query('selec 1').catch((e) => [e.code, e.position, e.message]),
  divisionByZero: (client) => client.query('select 1/0').catch((e) => [e.code, e.message]),
  types: (client) =>
    client.query("select true as b, 1.5::numeric as n, '{1,2}'::int[] as a, '{\"x\":1}'::jsonb as j, null as z").then((r) => r.rows),
  settings: (client) => client.query("set timezone = 'UTC'").then(() => client.query('show timezone')).then((r) => r.rows),
  async pool() {
    const pool = new Pool({ max: 3 })
    try {
      const counts = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => pool.query('select count(*) from track where genre_id = $1', [n])))
      return counts.map((r) => r.rows)
    } finally {
      await pool.end()
    }
  },
}

// Each piece gets a connection of its own, so that none spoils another's.
async function outcome(piece) {
  const client = new Client()
  try {
    await client.connect()
    return { value: await piece(client) }
  } catch (error) {
    return { code: error.code ?? '', detail: error.detail ?? '', message: error.message }
  } finally {
    await client.end().catch(() => {})
  }
}

async function main() {
  const refused = JSON.parse(await new Response(Readable.toWeb(process.stdin)).text())
  const results = { work: {}, refusedSimple: {}, refusedExtended: {} }
  for (const [name, piece] of Object.entries(work)) results.work[name] = await outcome(piece)
  for (const [name, statement] of Object.entries(refused)) {
    results.refusedSimple[name] = await outcome((client) => client.query(statement))
    results.refusedExtended[name] = await outcome(async (client) => {
      // The extended protocol takes one statement at a time.
      const parts = statement.includes('$$') ? [statement] : statement.split(';')
      for (const text of parts) await client.query({ text, values: [], queryMode: 'extended' })
    })
  }
  process.stdout.write(JSON.stringify(results))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
