// The PostgreSQL JDBC driver at work: runs every piece by itself and prints one JSON object of their outcomes.
// The connection comes in PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and PGOPTIONS, a token to be set by hand in TOKEN; the
// refused statements on stdin, each a name, a unit separator, the statement and a record separator.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class Work {
    interface Piece {
        Object on(Connection connection) throws Exception;
    }

    interface Result {
        ResultSet get() throws SQLException;
    }

    static final String LONGEST = "select track_id, name, unit_price, milliseconds from track where milliseconds > ? order by track_id limit 50";
    static final String GENRES = "select genre_id, name from genre where genre_id > ? order by genre_id";

    static Connection connect(String options, String... properties) throws SQLException {
        Properties given = new Properties();
        given.setProperty("user", System.getenv("PGUSER"));
        given.setProperty("password", System.getenv("PGPASSWORD"));
        if (!options.isEmpty()) {
            given.setProperty("options", options);
        }
        for (int i = 0; i < properties.length; i += 2) {
            given.setProperty(properties[i], properties[i + 1]);
        }
        String place = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection(place, given);
    }

    /** A piece gets a connection of its own, so that none spoils another's. */
    static Object outcome(String options, Piece piece, String... properties) {
        Map<String, Object> told = new LinkedHashMap<>();
        try (Connection connection = connect(options, properties)) {
            told.put("value", piece.on(connection));
        } catch (SQLException error) {
            told.putAll(failure(error));
        } catch (Exception error) {
            told.put("failure", error.toString());
        }
        return told;
    }

    static Map<String, Object> failure(SQLException error) {
        Map<String, Object> told = new LinkedHashMap<>();
        told.put("code", error.getSQLState());
        told.put("class", error.getClass().getSimpleName());
        ServerErrorMessage server = error instanceof PSQLException found ? found.getServerErrorMessage() : null;
        told.put("message", server == null ? error.getMessage() : server.getMessage());
        if (server != null) {
            told.put("detail", server.getDetail());
            told.put("hint", server.getHint());
            told.put("schema", server.getSchema());
            told.put("table", server.getTable());
            told.put("constraint", server.getConstraint());
            told.put("position", server.getPosition());
        }
        return told;
    }

    static List<List<String>> rows(ResultSet result) throws SQLException {
        List<List<String>> all = new ArrayList<>();
        int columns = result.getMetaData().getColumnCount();
        while (result.next()) {
            List<String> row = new ArrayList<>();
            for (int i = 1; i <= columns; i++) {
                row.add(result.getString(i));
            }
            all.add(row);
        }
        result.close();
        return all;
    }

    static List<List<String>> query(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int i = 0; i < values.length; i++) {
                statement.setObject(i + 1, values[i]);
            }
            return rows(statement.executeQuery());
        }
    }

    static Object rolledBack(Connection connection, Piece work) throws Exception {
        connection.setAutoCommit(false);
        try {
            return work.on(connection);
        } finally {
            connection.rollback();
        }
    }

    static Object failing(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return statement.execute(text);
        } catch (SQLException error) {
            return failure(error);
        }
    }

    static Object usual(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        for (int n = 0; n < 12; n++) {
            all.add(query(connection, LONGEST, n * 50000));
            all.add(query(connection, "select name from track where track_id = ? and name <> ?", n, "it's"));
        }
        try (Statement statement = connection.createStatement()) {
            all.add(rows(statement.executeQuery("select count(*) from album")));
        }
        return all;
    }

    static Object several(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (Statement statement = connection.createStatement()) {
            boolean more = statement.execute("select 1 as a; select name from genre order by 1 limit 2; show server_version");
            for (; more; more = statement.getMoreResults()) {
                all.add(rows(statement.getResultSet()));
            }
        }
        return all;
    }

    static Object prepared(Connection connection) throws SQLException {
        List<Object> all = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement(GENRES)) {
            // Past five executions the server may turn to a generic plan, which no planner hook sees again.
            for (int n = 0; n < 15; n++) {
                statement.setInt(1, n);
                all.add(rows(statement.executeQuery()));
            }
        }
        return all;
    }

    static Object cursor(Connection connection) throws Exception {
        return rolledBack(connection, it -> {
            try (Statement statement = it.createStatement()) {
                statement.setFetchSize(100);
                List<String> all = new ArrayList<>();
                ResultSet result = statement.executeQuery("select track_id from track order by track_id");
                while (result.next()) {
                    all.add(result.getString(1));
                }
                return all;
            }
        });
    }

    static Object scrollable(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
            ResultSet result = statement.executeQuery("select name from genre order by genre_id");
            result.absolute(5);
            String fifth = result.getString(1);
            result.previous();
            return List.of(fifth, result.getString(1));
        }
    }

    static CopyManager copies(Connection connection) throws SQLException {
        return connection.unwrap(PGConnection.class).getCopyAPI();
    }

    static Object copyOut(Connection connection) throws Exception {
        List<Object> all = new ArrayList<>();
        for (String text : List.of("copy genre to stdout", "copy (select name from artist order by 1) to stdout (format csv)", "copy genre to stdout (format binary)")) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            all.add(copies(connection).copyOut(text, out));
            all.add(HexFormat.of().formatHex(out.toByteArray()));
        }
        return all;
    }

    static Object copyIn(Connection connection) throws Exception {
        return rolledBack(connection, it -> {
            long count = copies(it).copyIn("copy playlist from stdin", new StringReader("910\tone\n911\ttwo\n"));
            return List.of(count, query(it, "select * from playlist where playlist_id > 900 order by 1"));
        });
    }

    static Object batch(Connection connection) throws Exception {
        return rolledBack(connection, it -> {
            try (PreparedStatement statement = it.prepareStatement("insert into playlist (playlist_id, name) values (?, ?)")) {
                for (int n = 920; n < 940; n++) {
                    statement.setInt(1, n);
                    statement.setString(2, n % 2 == 0 ? "list " + n : null);
                    statement.addBatch();
                }
                int[] counts = statement.executeBatch();
                // Rewritten into one INSERT of many rows the driver does not know the counts.
                return List.of(counts.length, query(it, "select * from playlist where playlist_id >= 920 order by 1"));
            }
        });
    }

    static Object generatedKeys(Connection connection) throws Exception {
        return rolledBack(connection, it -> {
            try (PreparedStatement statement = it.prepareStatement("insert into playlist values (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                statement.setInt(1, 950);
                statement.setString(2, "new");
                return List.of(statement.executeUpdate(), rows(statement.getGeneratedKeys()));
            }
        });
    }

    static Object savepoints(Connection connection) throws Exception {
        return rolledBack(connection, it -> {
            query(it, "insert into playlist values (960, 'kept') returning 1");
            Savepoint before = it.setSavepoint();
            Object error = failing(it, "insert into playlist values (960, 'twice')");
            it.rollback(before);
            return List.of(error, query(it, "select name from playlist where playlist_id >= 960"));
        });
    }

    static Object isolation(Connection connection) throws Exception {
        List<Object> all = new ArrayList<>();
        for (int level : new int[] {Connection.TRANSACTION_READ_COMMITTED, Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE}) {
            connection.setTransactionIsolation(level);
            connection.setAutoCommit(false);
            all.add(query(connection, "show transaction_isolation"));
            connection.commit();
            connection.setAutoCommit(true);
        }
        connection.setReadOnly(true);
        connection.setAutoCommit(false);
        all.add(failing(connection, "insert into playlist values (970, 'x')"));
        connection.rollback();
        return all;
    }

    static Object callable(Connection connection) throws SQLException {
        try (CallableStatement statement = connection.prepareCall("{? = call track_count(?)}")) {
            statement.registerOutParameter(1, Types.BIGINT);
            statement.setInt(2, 1);
            statement.execute();
            return statement.getLong(1);
        }
    }

    static Object types(Connection connection) throws SQLException {
        Array texts = connection.createArrayOf("text", new Object[] {"x", null, "y"});
        String text = "select ?::text[] as a, ?::bytea as b, ?::numeric as n, ?::timestamptz is not null as t, null as z, '{\"x\": 1}'::jsonb as j, ?::bool as o";
        return query(connection, text, texts, new byte[] {0, 1, 2}, new java.math.BigDecimal("1.50"), new java.sql.Timestamp(0), true);
    }

    static Object timeout(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            // The driver sends a cancel request of its own when the time is over.
            statement.setQueryTimeout(1);
            statement.execute("select count(*) from track a, track b, track c where a.name || b.name || c.name = 'x'");
            return "it ran";
        } catch (SQLException error) {
            return List.of(error.getSQLState(), query(connection, "select 1"), connection.isValid(5));
        }
    }

    static Object catalogue(Connection connection) throws SQLException {
        DatabaseMetaData data = connection.getMetaData();
        Map<String, Result> asked = new LinkedHashMap<>();
        asked.put("tables", () -> data.getTables(null, "public", "%", new String[] {"TABLE", "VIEW", "SEQUENCE"}));
        asked.put("all tables", () -> data.getTables(null, null, "%", null));
        asked.put("columns", () -> data.getColumns(null, "public", "%", "%"));
        asked.put("primary keys", () -> data.getPrimaryKeys(null, "public", "track"));
        asked.put("imported keys", () -> data.getImportedKeys(null, "public", "track"));
        asked.put("exported keys", () -> data.getExportedKeys(null, "public", "album"));
        asked.put("cross reference", () -> data.getCrossReference(null, "public", "album", null, "public", "track"));
        asked.put("indexes", () -> data.getIndexInfo(null, "public", "track", false, true));
        asked.put("best row", () -> data.getBestRowIdentifier(null, "public", "track", DatabaseMetaData.bestRowSession, false));
        asked.put("versions", () -> data.getVersionColumns(null, "public", "track"));
        asked.put("privileges", () -> data.getTablePrivileges(null, "public", "%"));
        asked.put("column privileges", () -> data.getColumnPrivileges(null, "public", "track", "%"));
        asked.put("functions", () -> data.getFunctions(null, "public", "%"));
        asked.put("function columns", () -> data.getFunctionColumns(null, "public", "%", "%"));
        asked.put("procedures", () -> data.getProcedures(null, "public", "%"));
        asked.put("procedure columns", () -> data.getProcedureColumns(null, "public", "%", "%"));
        asked.put("types", data::getTypeInfo);
        asked.put("own types", () -> data.getUDTs(null, "public", "%", null));
        asked.put("schemas", data::getSchemas);
        asked.put("catalogs", data::getCatalogs);
        asked.put("table types", data::getTableTypes);
        asked.put("client info", data::getClientInfoProperties);
        Map<String, Object> all = new LinkedHashMap<>();
        for (Map.Entry<String, Result> one : asked.entrySet()) {
            try {
                all.put(one.getKey(), rows(one.getValue().get()));
            } catch (SQLException error) {
                all.put(one.getKey(), failure(error));
            }
        }
        all.put("keywords", data.getSQLKeywords());
        all.put("name length", data.getMaxTableNameLength());
        all.put("of a result", described(connection));
        return all;
    }

    static Object described(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(LONGEST)) {
            List<Object> all = new ArrayList<>();
            for (int i = 1; i <= statement.getMetaData().getColumnCount(); i++) {
                all.add(statement.getMetaData().getColumnName(i) + " " + statement.getMetaData().getColumnTypeName(i) + " " + statement.getMetaData().isNullable(i));
            }
            all.add(statement.getParameterMetaData().getParameterTypeName(1));
            return all;
        }
    }

    /** What a session is told before it has a token, and after SET, set_config and DISCARD. */
    static Object handshake(Connection connection) throws SQLException {
        String token = System.getenv("TOKEN");
        List<Object> all = new ArrayList<>();
        all.add(failing(connection, "select count(*) from genre"));
        try (Statement statement = connection.createStatement()) {
            statement.execute("set agent_guard.token = '" + token + "'");
        }
        all.add(query(connection, "select count(*) from genre where genre_id > ?", 0));
        all.add(failing(connection, "discard all"));
        all.add(failing(connection, "select count(*) from genre"));
        query(connection, "select set_config('agent_guard.token', ?, false)", token);
        all.add(query(connection, "select count(*) from genre where genre_id > ?", 0));
        return all;
    }

    static Map<String, Object> work(String options) {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            all.put(mode, outcome(options, Work::usual, "preferQueryMode", mode));
        }
        all.put("severalStatements", outcome(options, Work::several));
        all.put("severalStatementsSimple", outcome(options, Work::several, "preferQueryMode", "simple"));
        all.put("prepared", outcome(options, Work::prepared));
        all.put("preparedAtOnce", outcome(options, Work::prepared, "prepareThreshold", "1"));
        all.put("preparedBinary", outcome(options, Work::prepared, "prepareThreshold", "-1", "binaryTransfer", "true"));
        all.put("neverPrepared", outcome(options, Work::prepared, "prepareThreshold", "0"));
        all.put("cursor", outcome(options, Work::cursor));
        all.put("adaptiveFetch", outcome(options, Work::cursor, "adaptiveFetch", "true", "defaultRowFetchSize", "10", "maxResultBuffer", "1M"));
        all.put("scrollable", outcome(options, Work::scrollable));
        all.put("copyOut", outcome(options, Work::copyOut));
        all.put("copyIn", outcome(options, Work::copyIn));
        all.put("batch", outcome(options, Work::batch));
        all.put("batchRewritten", outcome(options, Work::batch, "reWriteBatchedInserts", "true"));
        all.put("batchSimple", outcome(options, Work::batch, "preferQueryMode", "simple"));
        all.put("generatedKeys", outcome(options, Work::generatedKeys));
        all.put("savepoints", outcome(options, Work::savepoints));
        all.put("autosave", outcome(options, Work::savepoints, "autosave", "always"));
        all.put("isolation", outcome(options, Work::isolation));
        all.put("callable", outcome(options, Work::callable));
        all.put("types", outcome(options, Work::types));
        all.put("timeout", outcome(options, Work::timeout));
        all.put("catalogue", outcome(options, Work::catalogue));
        for (String text : List.of("insert into playlist values (1, 'twice')", "selec 1", "select 1/0", "select nothing from track")) {
            all.put("error of " + text, outcome(options, it -> failing(it, text)));
        }
        return all;
    }

    static Map<String, Object> refused(String options, Map<String, String> statements) {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String mode : List.of("simple", "extended", "extendedCacheEverything")) {
            Map<String, Object> found = new LinkedHashMap<>();
            statements.forEach((name, text) -> found.put(name, outcome(options, connection -> {
                // The driver takes several statements apart itself in the extended modes.
                try (Statement statement = connection.createStatement()) {
                    statement.setEscapeProcessing(false);
                    statement.execute(text);
                    while (statement.getMoreResults() || statement.getUpdateCount() != -1) {}
                    return "it ran";
                }
            }, "preferQueryMode", mode, "prepareThreshold", "1")));
            all.put(mode, found);
        }
        return all;
    }

    // --- one JSON object ---

    static void write(StringBuilder out, Object value) {
        if (value instanceof Map<?, ?> map) {
            String before = "{";
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                out.append(before);
                write(out, entry.getKey().toString());
                out.append(':');
                write(out, entry.getValue());
                before = ",";
            }
            out.append(map.isEmpty() ? "{}" : "}");
        } else if (value instanceof List<?> list) {
            String before = "[";
            for (Object one : list) {
                out.append(before);
                write(out, one);
                before = ",";
            }
            out.append(list.isEmpty() ? "[]" : "]");
        } else if (value instanceof Number || value instanceof Boolean || value == null) {
            out.append(value);
        } else {
            out.append('"');
            value.toString().chars().forEach(c -> out.append(c < ' ' || c > '~' || c == '"' || c == '\\' ? String.format("\\u%04x", c) : Character.toString(c)));
            out.append('"');
        }
    }

    public static void main(String[] arguments) throws Exception {
        String options = System.getenv("PGOPTIONS");
        Map<String, String> statements = new LinkedHashMap<>();
        String given = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        for (String one : given.split("\u001e")) {
            String[] parts = one.split("\u001f", 2);
            if (parts.length == 2) {
                statements.put(parts[0], parts[1]);
            }
        }
        Map<String, Object> all = new LinkedHashMap<>();
        List<String> chosen = Arrays.asList(arguments);
        if (chosen.isEmpty() || chosen.contains("work")) {
            all.put("work", work(options));
        }
        if (!System.getenv("TOKEN").isEmpty()) {
            all.put("handshake", outcome("", Work::handshake));
        }
        all.put("refused", refused(options, statements));
        StringBuilder out = new StringBuilder();
        write(out, all);
        System.out.println(out);
    }
}
