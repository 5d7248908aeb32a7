import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.PSQLState;

/** Checks of pgjdbc and HikariCP; connection data come from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE. */
public final class Pgjdbc {
    private static String url(String database) {
        return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + database;
    }

    private static Connection connect(String... properties) throws SQLException {
        Properties info = new Properties();
        info.setProperty("user", System.getenv("PGUSER"));
        info.setProperty("password", System.getenv("PGPASSWORD"));
        for (int i = 0; i < properties.length; i += 2) {
            info.setProperty(properties[i], properties[i + 1]);
        }
        return DriverManager.getConnection(url(System.getenv("PGDATABASE")), info);
    }

    private static void exec(Connection conn, String... statements) throws SQLException {
        try (Statement statement = conn.createStatement()) {
            for (String sql : statements) {
                statement.execute(sql);
            }
        }
    }

    private static String value(Connection conn, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                Checks.truth(rows.next(), "no row from " + sql);
                return rows.getString(1);
            }
        }
    }

    private static void refused(Connection conn, String state, String sql) throws SQLException {
        refused(state, () -> exec(conn, sql));
    }

    private static SQLException refused(String state, Checks.Body body) {
        try {
            body.run();
        } catch (SQLException failed) {
            if (!state.equals(failed.getSQLState())) {
                throw new Checks.Failure("expected SQLSTATE " + state + ", got " + failed.getSQLState() + ": " + failed.getMessage());
            }
            return failed;
        } catch (Exception other) {
            throw new Checks.Failure("expected SQLSTATE " + state + ", got " + other);
        }
        throw new Checks.Failure("expected SQLSTATE " + state + ", but nothing failed");
    }

    public static void main(String[] names) {
        Checks checks = new Checks();
        register(checks);
        registerMore(checks);
        checks.run(new HashSet<>(Arrays.asList(names)));
        System.exit(0);
    }

    private static void register(Checks c) {
        c.check("simple_query_mode", () -> {
            try (Connection conn = connect("preferQueryMode", "simple")) {
                for (int i = 0; i < 50; i++) {
                    Checks.equal(value(conn, "select ?::int", i), String.valueOf(i));
                }
                exec(conn, "");
                Checks.equal(value(conn, "select ?::text", "it's \\ quoted"), "it's \\ quoted");
            }
        });

        c.check("query_modes", () -> {
            for (String mode : List.of("extended", "extendedForPrepared", "extendedCacheEverything")) {
                try (Connection conn = connect("preferQueryMode", mode, "prepareThreshold", "2")) {
                    for (int i = 0; i < 30; i++) {
                        Checks.equal(value(conn, "select ?::int + " + i % 5, i), String.valueOf(i + i % 5));
                        exec(conn, "select 1", "", "set extra_float_digits = 2");
                    }
                }
            }
        });

        c.check("types_binary", () -> allTypes("true"));
        c.check("types_text", () -> allTypes("false"));

        c.check("nulls", () -> {
            try (Connection conn = connect("prepareThreshold", "1");
                    PreparedStatement statement = conn.prepareStatement("select ?::int, ?::text, ?::timestamptz")) {
                for (int i = 0; i < 3; i++) {
                    statement.setNull(1, Types.INTEGER);
                    statement.setNull(2, Types.VARCHAR);
                    statement.setNull(3, Types.TIMESTAMP_WITH_TIMEZONE);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        for (int column = 1; column <= 3; column++) {
                            Checks.equal(rows.getObject(column), null);
                        }
                    }
                }
            }
        });

        c.check("arrays_json", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int i = 0; i < 3; i++) {
                    Array sent = conn.createArrayOf("int4", new Integer[] {1, null, 3});
                    try (PreparedStatement statement = conn.prepareStatement("select ?::int4[]")) {
                        statement.setArray(1, sent);
                        try (ResultSet rows = statement.executeQuery()) {
                            rows.next();
                            Checks.equal(Arrays.asList((Object[]) rows.getArray(1).getArray()), Arrays.asList(1, null, 3));
                        }
                    }
                    Checks.equal(value(conn, "select (?::jsonb) -> 'a' ->> 1", "{\"a\": [1, \"é\"]}"), "é");
                    try (Statement statement = conn.createStatement();
                            ResultSet rows = statement.executeQuery("select array['x','y']::text[]")) {
                        rows.next();
                        Checks.equal(Arrays.asList((String[]) rows.getArray(1).getArray()), List.of("x", "y"));
                    }
                }
            }
        });

        c.check("big_text_both_ways", () -> {
            String big = "0123456789abcdef".repeat((10 << 20) / 16);
            try (Connection conn = connect()) {
                Checks.truth(big.equals(value(conn, "select ?::text", big)), "10 MB changed on the way");
                Checks.equal(value(conn, "select 1"), "1");
            }
        });

        c.check("many_parameters", () -> {
            int count = 32767;
            StringBuilder sql = new StringBuilder("select array_length(array[?::int");
            sql.append(",?".repeat(count - 1)).append("], 1)");
            try (Connection conn = connect("prepareThreshold", "1");
                    PreparedStatement statement = conn.prepareStatement(sql.toString())) {
                for (int i = 1; i <= count; i++) {
                    statement.setInt(i, i);
                }
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    Checks.equal(rows.getInt(1), count);
                }
            }
        });

        c.check("prepared_past_threshold", () -> {
            try (Connection conn = connect(); PreparedStatement statement = conn.prepareStatement("select ?::int + 1")) {
                for (int i = 0; i < 200; i++) {
                    statement.setInt(1, i);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        Checks.equal(rows.getInt(1), i + 1);
                    }
                }
            }
        });

        c.check("prepared_names_collide", () -> Checks.together(10, n -> {
            // Every connection of pgjdbc names its statements S_1, S_2, ...
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int i = 0; i < 100; i++) {
                    Checks.equal(value(conn, "select 'client " + n + " ' || ?::int", i), "client " + n + " " + i);
                    Checks.equal(value(conn, "select " + n * 1000 + " + ?::int", i), String.valueOf(n * 1000 + i));
                }
            }
        }));

        c.check("statement_cache_overflow", () -> Checks.together(4, n -> {
            try (Connection conn = connect("prepareThreshold", "1", "preparedStatementCacheQueries", "6")) {
                for (int round = 0; round < 4; round++) {
                    for (int i = 0; i < 40; i++) {
                        Checks.equal(value(conn, "select ?::int * " + i, n + round), String.valueOf((n + round) * i));
                    }
                }
            }
        }));

        c.check("same_text_other_types", () -> {
            try (Connection conn = connect("prepareThreshold", "1");
                    PreparedStatement statement = conn.prepareStatement("select pg_typeof(?)::text")) {
                for (int i = 0; i < 5; i++) {
                    statement.setInt(1, 1);
                    Checks.equal(first(statement), "integer");
                    statement.setLong(1, 1);
                    Checks.equal(first(statement), "bigint");
                    statement.setBigDecimal(1, BigDecimal.ONE);
                    Checks.equal(first(statement), "numeric");
                }
            }
        });

        c.check("reprepare_after_ddl", () -> {
            try (Connection conn = connect("prepareThreshold", "1"); Connection other = connect()) {
                exec(conn, "drop table if exists java_ddl", "create table java_ddl (a int)", "insert into java_ddl values (1)");
                // pgjdbc prepares again by itself when it is not in a transaction.
                for (int round = 0; round < 5; round++) {
                    try (PreparedStatement statement = conn.prepareStatement("select * from java_ddl where a = ?")) {
                        for (int i = 0; i < 7; i++) {
                            statement.setInt(1, 1);
                            try (ResultSet rows = statement.executeQuery()) {
                                Checks.equal(rows.getMetaData().getColumnCount(), round + 1);
                                Checks.truth(rows.next(), "the row is gone");
                            }
                        }
                        exec(round % 2 == 0 ? conn : other, "alter table java_ddl add column c" + round + " text");
                    }
                }
                exec(conn, "drop table java_ddl");
            }
        });

        c.check("autosave_after_ddl", () -> {
            try (Connection conn = connect("prepareThreshold", "1", "autosave", "conservative"); Connection other = connect()) {
                exec(conn, "drop table if exists java_autosave", "create table java_autosave (a int)");
                String sql = "select * from java_autosave where a > ?";
                value(conn, "select count(*) from java_autosave where a > ?", 0);
                for (int i = 0; i < 3; i++) {
                    columns(conn, sql);
                }
                for (int round = 0; round < 3; round++) {
                    exec(other, "alter table java_autosave add column c" + round + " int");
                    conn.setAutoCommit(false);
                    exec(conn, "insert into java_autosave values (1)");
                    Checks.equal(columns(conn, sql), round + 2);
                    conn.commit();
                    conn.setAutoCommit(true);
                }
                exec(conn, "drop table java_autosave");
            }
        });

        c.check("autosave_always", () -> {
            try (Connection conn = connect("autosave", "always")) {
                conn.setAutoCommit(false);
                for (int i = 0; i < 10; i++) {
                    Checks.equal(value(conn, "select ?::int", i), String.valueOf(i));
                    refused(conn, "22012", "select 1/0");
                }
                conn.commit();
            }
        });

        c.check("batch", () -> {
            for (String rewrite : List.of("false", "true")) {
                try (Connection conn = connect("reWriteBatchedInserts", rewrite)) {
                    exec(conn, "drop table if exists java_batch", "create table java_batch (id int, text text)");
                    try (PreparedStatement insert = conn.prepareStatement("insert into java_batch values (?, ?)")) {
                        for (int round = 0; round < 3; round++) {
                            for (int i = 0; i < 1500; i++) {
                                insert.setInt(1, i);
                                insert.setString(2, "row " + i);
                                insert.addBatch();
                            }
                            Checks.equal(insert.executeBatch().length, 1500);
                        }
                    }
                    Checks.equal(value(conn, "select count(*) || ' ' || sum(id) from java_batch"), "4500 " + 3 * (1499 * 1500 / 2));
                    exec(conn, "drop table java_batch");
                }
            }
        });

        c.check("batch_error_in_middle", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                exec(conn, "drop table if exists java_batcherr", "create table java_batcherr (id int primary key)");
                for (int round = 0; round < 3; round++) {
                    conn.setAutoCommit(false);
                    try (PreparedStatement insert = conn.prepareStatement("insert into java_batcherr values (?)")) {
                        for (int id : new int[] {1, 2, 3, 2, 4, 5}) {
                            insert.setInt(1, id);
                            insert.addBatch();
                        }
                        try {
                            insert.executeBatch();
                            throw new Checks.Failure("a duplicate key in a batch did not fail");
                        } catch (BatchUpdateException failed) {
                            Checks.equal(failed.getSQLState(), "23505");
                        }
                    }
                    refused(conn, "25P02", "select 1");
                    conn.rollback();
                    conn.setAutoCommit(true);
                    Checks.equal(value(conn, "select count(*) from java_batcherr"), "0");
                }
                exec(conn, "drop table java_batcherr");
            }
        });

        c.check("batch_of_statements", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                statement.addBatch("drop table if exists java_stmts");
                statement.addBatch("create table java_stmts (a int)");
                statement.addBatch("insert into java_stmts select generate_series(1, 10)");
                statement.addBatch("update java_stmts set a = a + 1 where a > 5");
                statement.addBatch("drop table java_stmts");
                int[] counts = statement.executeBatch();
                Checks.equal(List.of(counts[2], counts[3]), List.of(10, 5));
            }
        });

        c.check("batch_generated_keys", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                exec(conn, "drop table if exists java_keys", "create table java_keys (id serial, n int)");
                try (PreparedStatement insert = conn.prepareStatement("insert into java_keys (n) values (?)", Statement.RETURN_GENERATED_KEYS)) {
                    for (int i = 0; i < 200; i++) {
                        insert.setInt(1, i);
                        insert.addBatch();
                    }
                    insert.executeBatch();
                    int keys = 0;
                    try (ResultSet rows = insert.getGeneratedKeys()) {
                        while (rows.next()) {
                            Checks.equal(rows.getInt(1), ++keys);
                        }
                    }
                    Checks.equal(keys, 200);
                }
                exec(conn, "drop table java_keys");
            }
        });

        c.check("multi_statement", () -> {
            for (String mode : List.of("simple", "extended")) {
                try (Connection conn = connect("preferQueryMode", mode); Statement statement = conn.createStatement()) {
                    boolean isRows = statement.execute("select 1; select 'two'; select 3");
                    List<String> seen = new ArrayList<>();
                    while (isRows) {
                        try (ResultSet rows = statement.getResultSet()) {
                            rows.next();
                            seen.add(rows.getString(1));
                        }
                        isRows = statement.getMoreResults();
                    }
                    Checks.equal(seen, List.of("1", "two", "3"));
                    refused(conn, "22012", "select 1; select 1/0; select 3");
                    Checks.equal(value(conn, "select 4"), "4");
                }
            }
        });

        c.check("transactions", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_tx", "create table java_tx (a int)");
                conn.setAutoCommit(false);
                for (int i = 0; i < 10; i++) {
                    exec(conn, "insert into java_tx values (" + i + ")");
                    if (i % 2 == 0) {
                        conn.commit();
                    } else {
                        conn.rollback();
                    }
                }
                conn.commit();
                conn.rollback();
                Checks.equal(value(conn, "select count(*) from java_tx"), "5");
                refused(conn, "22012", "select 1/0");
                refused(conn, "25P02", "select 1");
                conn.rollback();
                conn.setAutoCommit(true);
                exec(conn, "drop table java_tx");
            }
        });

        c.check("savepoints", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_save", "create table java_save (a int primary key)");
                conn.setAutoCommit(false);
                exec(conn, "insert into java_save values (1)");
                Savepoint point = conn.setSavepoint("before");
                refused(conn, "23505", "insert into java_save values (1)");
                conn.rollback(point);
                exec(conn, "insert into java_save values (2)");
                Savepoint second = conn.setSavepoint();
                exec(conn, "insert into java_save values (3)");
                conn.releaseSavepoint(second);
                conn.commit();
                Checks.equal(value(conn, "select sum(a) from java_save"), "6");
                conn.commit();
                conn.setAutoCommit(true);
                exec(conn, "drop table java_save");
            }
        });

        c.check("isolation_and_read_only", () -> {
            try (Connection conn = connect("readOnlyMode", "always"); Connection other = connect()) {
                conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                for (int i = 0; i < 5; i++) {
                    Checks.equal(conn.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE);
                    Checks.equal(value(conn, "show transaction_isolation"), "serializable");
                    Checks.equal(value(other, "show transaction_isolation"), "read committed");
                }
                conn.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
                conn.setReadOnly(true);
                for (int i = 0; i < 5; i++) {
                    refused(conn, "25006", "create table java_never (a int)");
                    exec(other, "create table java_ro (a int)", "drop table java_ro");
                }
                conn.setAutoCommit(false);
                refused(conn, "25006", "create table java_never (a int)");
                conn.rollback();
                conn.setReadOnly(false);
                exec(conn, "create table java_ro2 (a int)", "drop table java_ro2");
                conn.commit();
            }
        });

        c.check("fetch_size", () -> Checks.together(3, n -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                conn.setAutoCommit(false);
                for (int round = 0; round < 3; round++) {
                    try (PreparedStatement statement = conn.prepareStatement("select i + ?::int from generate_series(1, 1000) i")) {
                        statement.setFetchSize(17);
                        statement.setInt(1, n);
                        int expected = n;
                        try (ResultSet rows = statement.executeQuery()) {
                            while (rows.next()) {
                                Checks.equal(rows.getInt(1), ++expected);
                                if (expected % 200 == 0) {
                                    // Another statement while the portal is open.
                                    Checks.equal(value(conn, "select 'between'"), "between");
                                }
                            }
                        }
                        Checks.equal(expected, n + 1000);
                    }
                    conn.commit();
                }
            }
        }));

        c.check("fetch_size_abandoned", () -> {
            try (Connection conn = connect("defaultRowFetchSize", "10")) {
                conn.setAutoCommit(false);
                for (int i = 0; i < 10; i++) {
                    Statement statement = conn.createStatement();
                    ResultSet rows = statement.executeQuery("select generate_series(1, 1000)");
                    rows.next();
                    if (i % 2 == 0) {
                        statement.close();
                        conn.commit();
                    } else {
                        conn.rollback();
                    }
                }
                Checks.equal(value(conn, "select 1"), "1");
            }
        });

        c.check("max_rows", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                statement.setMaxRows(7);
                for (int i = 0; i < 5; i++) {
                    int count = 0;
                    try (ResultSet rows = statement.executeQuery("select generate_series(1, 1000)")) {
                        while (rows.next()) {
                            count++;
                        }
                    }
                    Checks.equal(count, 7);
                }
            }
        });

        c.check("holdable_cursor", () -> Checks.together(2, n -> {
            try (Connection conn = connect()) {
                exec(conn, "begin", "declare held cursor with hold for select i + " + n * 1000 + " from generate_series(1, 50) i", "commit");
                for (int i = 1; i <= 50; i++) {
                    Checks.equal(value(conn, "fetch 1 from held"), String.valueOf(n * 1000 + i));
                }
                exec(conn, "close held");
                refused(conn, "34000", "fetch 1 from held");
            }
        }));

        c.check("ref_cursor", () -> {
            try (Connection conn = connect()) {
                exec(conn, "create or replace function java_refcursor() returns refcursor language plpgsql as "
                        + "$$ declare c refcursor; begin open c for select generate_series(1, 25); return c; end $$");
                conn.setAutoCommit(false);
                try (CallableStatement call = conn.prepareCall("{? = call java_refcursor()}")) {
                    call.registerOutParameter(1, Types.REF_CURSOR);
                    call.execute();
                    int count = 0;
                    try (ResultSet rows = (ResultSet) call.getObject(1)) {
                        while (rows.next()) {
                            count++;
                        }
                    }
                    Checks.equal(count, 25);
                }
                exec(conn, "drop function java_refcursor()");
                conn.commit();
            }
        });

        c.check("procedure_with_commit", () -> {
            try (Connection conn = connect("escapeSyntaxCallMode", "callIfNoReturn")) {
                exec(conn, "drop table if exists java_proc", "create table java_proc (a int)",
                        "create or replace procedure java_procedure(n int) language plpgsql as $$ begin for i in 1..n loop "
                                + "insert into java_proc values (i); if i % 2 = 0 then commit; else rollback; end if; end loop; end $$");
                try (CallableStatement call = conn.prepareCall("{call java_procedure(?)}")) {
                    call.setInt(1, 10);
                    call.execute();
                }
                Checks.equal(value(conn, "select count(*) from java_proc"), "5");
                exec(conn, "drop procedure java_procedure(int)", "drop table java_proc");
            }
        });

        c.check("updatable_result_set", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_upd", "create table java_upd (id int primary key, n int)",
                        "insert into java_upd select i, i from generate_series(1, 5) i");
                try (Statement statement = conn.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                        ResultSet rows = statement.executeQuery("select id, n from java_upd order by id")) {
                    rows.absolute(3);
                    rows.updateInt(2, 333);
                    rows.updateRow();
                    rows.last();
                    rows.deleteRow();
                }
                Checks.equal(value(conn, "select string_agg(n::text, ',' order by id) from java_upd"), "1,2,333,4");
                exec(conn, "drop table java_upd");
            }
        });
    }

    private static void registerMore(Checks c) {
        c.check("copy_both_ways", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_copy", "create table java_copy (id int, text text)");
                CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
                StringBuilder data = new StringBuilder();
                for (int i = 0; i < 100000; i++) {
                    data.append(i).append("\tsome text of a row\n");
                }
                byte[] bytes = data.toString().getBytes();
                Checks.equal(copy.copyIn("copy java_copy from stdin", new ByteArrayInputStream(bytes)), 100000L);
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                Checks.equal(copy.copyOut("copy java_copy to stdout", out), 100000L);
                Checks.truth(Arrays.equals(out.toByteArray(), bytes), "COPY OUT gave other bytes than COPY IN took");
                exec(conn, "drop table java_copy");
            }
        });

        c.check("copy_in_server_fails", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_copyfail", "create table java_copyfail (id int primary key)");
                CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
                byte[] data = "1\n".repeat(1 << 20).getBytes();
                for (int i = 0; i < 8; i++) {
                    // pgjdbc hides its own later "tried to write to an inactive copy" behind the server's error, or the reverse.
                    try {
                        copy.copyIn("copy java_copyfail from stdin", new ByteArrayInputStream(data));
                        throw new Checks.Failure("a duplicate key in a COPY did not fail");
                    } catch (SQLException failed) {
                        Checks.truth(Set.of("23505", "55000").contains(failed.getSQLState()), "SQLSTATE " + failed.getSQLState() + " " + failed);
                    }
                    Checks.equal(value(conn, "select count(*) from java_copyfail"), "0");
                    refused("42P01", () -> copy.copyIn("copy java_no_such_table from stdin", new ByteArrayInputStream(data)));
                }
                exec(conn, "drop table java_copyfail");
            }
        });

        c.check("copy_in_client_cancels", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_copyhalf", "create table java_copyhalf (id int)");
                CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
                for (int i = 0; i < 5; i++) {
                    CopyIn half = copy.copyIn("copy java_copyhalf from stdin");
                    byte[] row = "5\n".getBytes();
                    for (int j = 0; j < 5000; j++) {
                        half.writeToCopy(row, 0, row.length);
                    }
                    half.cancelCopy();
                    Checks.equal(value(conn, "select count(*) from java_copyhalf"), "0");
                }
                InputStream broken = new InputStream() {
                    @Override
                    public int read() throws IOException {
                        throw new IOException("the source of the data broke");
                    }
                };
                try {
                    copy.copyIn("copy java_copyhalf from stdin", broken);
                    throw new Checks.Failure("a broken source did not fail");
                } catch (IOException expected) {
                    Checks.equal(value(conn, "select count(*) from java_copyhalf"), "0");
                }
                exec(conn, "drop table java_copyhalf");
            }
        });

        c.check("copy_out_fails_half_way", () -> {
            try (Connection conn = connect()) {
                CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
                for (int i = 0; i < 5; i++) {
                    refused("22012", () -> copy.copyOut("copy (select 1 / (5000 - i) from generate_series(1, 10000) i) to stdout",
                            new ByteArrayOutputStream()));
                    Checks.equal(value(conn, "select 1"), "1");
                }
            }
        });

        c.check("copy_out_abandoned", () -> {
            // Not with cancelCopy(): 42.7.14 loses its place in the stream after it, without any pooler too.
            for (int i = 0; i < 5; i++) {
                try (Connection conn = connect()) {
                    conn.unwrap(PGConnection.class).getCopyAPI().copyOut("copy (select generate_series(1, 3000000)) to stdout").readFromCopy();
                    conn.abort(Runnable::run);
                }
                try (Connection conn = connect()) {
                    Checks.equal(value(conn, "select 1"), "1");
                }
            }
        });

        c.check("listen_notify", () -> {
            try (Connection listener = connect(); Connection stranger = connect(); Connection sender = connect()) {
                exec(listener, "listen java_channel");
                PGConnection ears = listener.unwrap(PGConnection.class);
                for (int i = 0; i < 5; i++) {
                    exec(sender, "notify java_channel, 'message " + i + "'");
                    PGNotification[] notes = ears.getNotifications(5000);
                    Checks.truth(notes != null && notes.length == 1, "no notification within 5 s");
                    Checks.equal(notes[0].getName() + " " + notes[0].getParameter(), "java_channel message " + i);
                }
                PGNotification[] others = stranger.unwrap(PGConnection.class).getNotifications(200);
                Checks.truth(others == null || others.length == 0, "a client that never listened was notified");
                exec(listener, "unlisten *");
                exec(sender, "notify java_channel, 'late'");
                PGNotification[] late = ears.getNotifications(300);
                Checks.truth(late == null || late.length == 0, "a notification after UNLISTEN");
            }
        });

        c.check("listen_while_idle", () -> {
            try (Connection listener = connect(); Connection sender = connect()) {
                exec(listener, "listen java_idle");
                PGConnection ears = listener.unwrap(PGConnection.class);
                Thread later = new Thread(() -> {
                    try {
                        TimeUnit.MILLISECONDS.sleep(800);
                        exec(sender, "notify java_idle, 'wake'");
                    } catch (Exception failed) {
                        throw new IllegalStateException(failed);
                    }
                });
                later.start();
                PGNotification[] notes = ears.getNotifications(6000);
                later.join();
                Checks.truth(notes != null && notes.length == 1, "no notification within 6 s");
                Checks.equal(notes[0].getParameter(), "wake");
            }
        });

        c.check("cancel_and_timeouts", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                for (int i = 0; i < 3; i++) {
                    Thread canceller = new Thread(() -> {
                        try {
                            TimeUnit.MILLISECONDS.sleep(400);
                            statement.cancel();
                        } catch (Exception failed) {
                            throw new IllegalStateException(failed);
                        }
                    });
                    canceller.start();
                    long started = System.nanoTime();
                    refused("57014", () -> statement.execute("select pg_sleep(20)"));
                    canceller.join();
                    Checks.truth(System.nanoTime() - started < 8e9, "the cancel took more than 8 s");
                    TimeUnit.MILLISECONDS.sleep(50);
                    Checks.equal(value(conn, "select 1"), "1");
                }
                statement.setQueryTimeout(1);
                refused("57014", () -> statement.execute("select pg_sleep(20)"));
                statement.setQueryTimeout(0);
                TimeUnit.MILLISECONDS.sleep(50);
                Checks.equal(value(conn, "select 2"), "2");
            }
        });

        c.check("large_objects_fastpath", () -> Checks.together(2, n -> {
            try (Connection conn = connect()) {
                conn.setAutoCommit(false);
                byte[] content = ("content of " + n + " ").repeat(50000).getBytes();
                LargeObjectManager objects = conn.unwrap(PGConnection.class).getLargeObjectAPI();
                for (int i = 0; i < 3; i++) {
                    long oid = objects.createLO(LargeObjectManager.READ | LargeObjectManager.WRITE);
                    try (LargeObject object = objects.open(oid, LargeObjectManager.READ | LargeObjectManager.WRITE)) {
                        object.write(content);
                        object.seek(0);
                        Checks.truth(Arrays.equals(object.read(content.length), content), "a large object changed");
                        Checks.equal(object.size(), content.length);
                    }
                    conn.commit();
                    objects.delete(oid);
                    conn.commit();
                    try {
                        objects.open(oid, LargeObjectManager.READ);
                        throw new Checks.Failure("a deleted large object was opened");
                    } catch (SQLException failed) {
                        Checks.equal(failed.getSQLState(), "42704");
                    }
                    conn.rollback();
                }
            }
        }));

        c.check("blob_in_table", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_blob", "create table java_blob (id int, content oid)");
                conn.setAutoCommit(false);
                byte[] content = "0123456789".repeat(30000).getBytes();
                try (PreparedStatement insert = conn.prepareStatement("insert into java_blob values (1, ?)")) {
                    insert.setBlob(1, new ByteArrayInputStream(content), content.length);
                    insert.execute();
                }
                try (Statement statement = conn.createStatement(); ResultSet rows = statement.executeQuery("select content from java_blob")) {
                    rows.next();
                    Checks.truth(Arrays.equals(rows.getBlob(1).getBytes(1, content.length), content), "a blob changed");
                }
                exec(conn, "select lo_unlink(content) from java_blob");
                conn.commit();
                exec(conn, "drop table java_blob");
                conn.commit();
            }
        });

        c.check("schema_sticks", () -> {
            try (Connection setup = connect()) {
                for (int n = 0; n < 4; n++) {
                    exec(setup, "drop schema if exists java_s" + n + " cascade", "create schema java_s" + n,
                            "create table java_s" + n + ".whose as select " + n + " as owner");
                }
                Checks.together(4, n -> {
                    try (Connection conn = n % 2 == 0 ? connect("currentSchema", "java_s" + n, "prepareThreshold", "1") : connect("prepareThreshold", "1")) {
                        conn.setSchema("java_s" + n);
                        for (int i = 0; i < 50; i++) {
                            Checks.equal(value(conn, "select owner from whose where ?::int = ?", i, i), String.valueOf(n));
                            Checks.equal(conn.getSchema(), "java_s" + n);
                        }
                    }
                });
                Checks.equal(value(setup, "show search_path"), "\"$user\", public");
                for (int n = 0; n < 4; n++) {
                    exec(setup, "drop schema java_s" + n + " cascade");
                }
            }
        });

        c.check("settings_stick", () -> {
            try (Connection conn = connect("options", "-c geqo=off -c statement_timeout=4321ms", "ApplicationName", "java one");
                    Connection other = connect("ApplicationName", "java two")) {
                for (int i = 0; i < 5; i++) {
                    Checks.equal(value(conn, "show geqo"), "off");
                    Checks.equal(value(conn, "show statement_timeout"), "4321ms");
                    Checks.equal(value(conn, "show application_name"), "java one");
                    Checks.equal(value(other, "show application_name"), "java two");
                    Checks.equal(value(other, "show geqo"), "on");
                }
                conn.setClientInfo("ApplicationName", "java three");
                exec(conn, "set statement_timeout = '150ms'");
                for (int i = 0; i < 3; i++) {
                    refused(conn, "57014", "select pg_sleep(5)");
                    exec(other, "select pg_sleep(0.3)");
                    Checks.equal(value(conn, "show application_name"), "java three");
                }
                exec(conn, "reset all");
                Checks.equal(value(conn, "show statement_timeout"), "4321ms");
            }
        });

        c.check("guarded_parameters", () -> {
            // pgjdbc closes the connection when the server reports a changed client_encoding or DateStyle.
            try (Connection conn = connect(); Connection other = connect()) {
                exec(other, "set time zone 'Asia/Tokyo'");
                for (int i = 0; i < 10; i++) {
                    Checks.equal(value(other, "show timezone"), "Asia/Tokyo");
                    Checks.truth(!value(conn, "show timezone").equals("Asia/Tokyo"), "another client's time zone");
                    Checks.equal(value(conn, "show client_encoding"), "UTF8");
                    Checks.truth(value(conn, "show datestyle").startsWith("ISO"), "DateStyle");
                    String reported = ((PGConnection) conn).getParameterStatus("TimeZone");
                    Checks.equal(reported, value(conn, "show timezone"));
                }
            }
        });

        c.check("temp_table", () -> Checks.together(2, n -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                exec(conn, "create temp table mine (a int)");
                try (PreparedStatement insert = conn.prepareStatement("insert into mine values (?)")) {
                    for (int i = 0; i < 50; i++) {
                        insert.setInt(1, n * 100 + i);
                        Checks.equal(insert.executeUpdate(), 1);
                    }
                }
                Checks.equal(value(conn, "select min(a) || ' ' || count(*) from mine"), n * 100 + " 50");
                exec(conn, "drop table mine");
                refused(conn, "42P01", "select * from mine");
            }
        }));

        c.check("advisory_locks", () -> {
            try (Connection holder = connect(); Connection other = connect()) {
                exec(holder, "select pg_advisory_lock(77002)");
                for (int i = 0; i < 5; i++) {
                    Checks.equal(value(other, "select pg_try_advisory_lock(77002)"), "f");
                    exec(holder, "select 1");
                }
                Checks.equal(value(holder, "select pg_advisory_unlock(77002)"), "t");
                Checks.equal(value(other, "select pg_try_advisory_lock(77002)"), "t");
                Checks.equal(value(other, "select pg_advisory_unlock(77002)"), "t");
            }
        });

        c.check("sql_prepare_execute", () -> Checks.together(3, n -> {
            for (String mode : List.of("simple", "extended")) {
                try (Connection conn = connect("preferQueryMode", mode)) {
                    exec(conn, "prepare plan (int) as select " + n * 100 + " + $1");
                    for (int i = 0; i < 20; i++) {
                        Checks.equal(value(conn, "execute plan(" + i + ")"), String.valueOf(n * 100 + i));
                    }
                    exec(conn, "deallocate plan");
                    refused(conn, "26000", "execute plan(1)");
                }
            }
        }));

        c.check("discard_and_deallocate_all", () -> {
            try (Connection conn = connect("prepareThreshold", "1")) {
                for (int i = 0; i < 10; i++) {
                    Checks.equal(value(conn, "select ?::int", i), String.valueOf(i));
                    Checks.equal(value(conn, "select ?::text", "x" + i), "x" + i);
                    exec(conn, "set work_mem = '9MB'");
                    exec(conn, i % 2 == 0 ? "discard all" : "deallocate all");
                }
                Checks.equal(value(conn, "show work_mem"), "9MB");
                exec(conn, "discard all");
                Checks.equal(value(conn, "show work_mem"), "4MB");
            }
        });

        c.check("sqlstates", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_states", "create table java_states (id int primary key, n int not null check (n > 0))");
                Map<String, String> states = Map.of("selec", "42601", "select * from java_nowhere", "42P01",
                        "select nothing from java_states", "42703", "insert into java_states values (1, null)", "23502",
                        "insert into java_states values (1, 0)", "23514", "select 'x'::int", "22P02", "select 1/0", "22012",
                        "do $$ begin raise exception 'mine' using errcode = 'ZZ001'; end $$", "ZZ001");
                for (int i = 0; i < 7; i++) {
                    for (Map.Entry<String, String> one : states.entrySet()) {
                        refused(conn, one.getValue(), one.getKey());
                    }
                }
                PSQLException failed = (PSQLException) refused("23514", () -> exec(conn, "insert into java_states values (1, 0)"));
                Checks.equal(failed.getServerErrorMessage().getConstraint(), "java_states_n_check");
                exec(conn, "drop table java_states");
            }
        });

        c.check("notices", () -> {
            try (Connection conn = connect(); Statement statement = conn.createStatement()) {
                statement.execute("do $$ begin raise notice 'one'; raise warning 'two'; end $$");
                SQLWarning warning = statement.getWarnings();
                Checks.equal(warning.getMessage(), "one");
                Checks.equal(warning.getNextWarning().getMessage(), "two");
                statement.execute("commit");
            }
        });

        c.check("metadata", () -> {
            try (Connection conn = connect()) {
                exec(conn, "drop table if exists java_meta", "create table java_meta (id int primary key, name varchar(20))");
                try (ResultSet columns = conn.getMetaData().getColumns(null, "public", "java_meta", "%")) {
                    List<String> names = new ArrayList<>();
                    while (columns.next()) {
                        names.add(columns.getString("COLUMN_NAME") + ":" + columns.getString("TYPE_NAME"));
                    }
                    Checks.equal(names, List.of("id:int4", "name:varchar"));
                }
                try (PreparedStatement statement = conn.prepareStatement("select id, name from java_meta where id = ?")) {
                    Checks.equal(statement.getMetaData().getColumnName(2), "name");
                    Checks.equal(statement.getParameterMetaData().getParameterTypeName(1), "int4");
                }
                exec(conn, "drop table java_meta");
                Checks.truth(conn.isValid(3), "isValid says no");
            }
        });

        c.check("pool_tagged_rows", () -> {
            try (HikariDataSource pool = pool(20)) {
                Checks.together(20, n -> {
                    for (int i = 0; i < 100; i++) {
                        try (Connection conn = pool.getConnection()) {
                            String tag = "worker " + n + " item " + i;
                            Checks.equal(value(conn, "select ?::text where " + i % 11 + " = ?::int", tag, i % 11), tag);
                        }
                    }
                });
            }
        });

        c.check("pool_transactions", () -> {
            try (HikariDataSource pool = pool(20)) {
                try (Connection conn = pool.getConnection()) {
                    exec(conn, "drop table if exists java_bank", "create table java_bank as select i as id, 100 as amount from generate_series(0, 19) i");
                }
                Checks.together(20, n -> {
                    for (int i = 0; i < 15; i++) {
                        try (Connection conn = pool.getConnection()) {
                            conn.setAutoCommit(false);
                            int low = Math.min(n, (n + i + 1) % 20);
                            int high = Math.max(n, (n + i + 1) % 20);
                            exec(conn, "update java_bank set amount = amount - 1 where id = " + low);
                            if (i % 5 == 4) {
                                refused(conn, "22012", "select 1/0");
                                conn.rollback();
                            } else {
                                exec(conn, "update java_bank set amount = amount + 1 where id = " + high);
                                conn.commit();
                            }
                        }
                    }
                });
                try (Connection conn = pool.getConnection()) {
                    Checks.equal(value(conn, "select sum(amount) from java_bank"), "2000");
                    exec(conn, "drop table java_bank");
                }
            }
        });

        c.check("reconnect_loop", () -> Checks.together(3, n -> {
            for (int i = 0; i < 25; i++) {
                try (Connection conn = connect()) {
                    Checks.equal(value(conn, "select ?::int", n * 100 + i), String.valueOf(n * 100 + i));
                    if (i % 3 == 0) {
                        conn.setAutoCommit(false);
                        exec(conn, "select 1");
                        conn.abort(Runnable::run);
                    }
                }
            }
        }));

        c.check("wrong_password_and_database", () -> {
            refused("28P01", () -> connect("password", "certainly wrong").close());
            refused("3D000", () -> DriverManager.getConnection(url("no_such_database"),
                    System.getenv("PGUSER"), System.getenv("PGPASSWORD")).close());
            try (Connection conn = connect()) {
                Checks.equal(value(conn, "select 1"), "1");
            }
        });

        c.check("protocol_3_2", () -> {
            try (Connection conn = connect("protocolVersion", "3.2"); Statement statement = conn.createStatement()) {
                Checks.equal(value(conn, "select 1"), "1");
                statement.setQueryTimeout(1);
                refused("57014", () -> statement.execute("select pg_sleep(20)"));
            }
        });

        c.check("gss_encryption_refused", () -> {
            try (Connection conn = connect("gssEncMode", "prefer", "sslmode", "prefer")) {
                Checks.equal(value(conn, "select 1"), "1");
            }
        });

        c.check("idle_in_transaction", () -> {
            try (Connection idle = connect()) {
                idle.setAutoCommit(false);
                String pid = value(idle, "select pg_backend_pid()");
                Checks.together(4, n -> {
                    try (Connection conn = connect()) {
                        for (int i = 0; i < 20; i++) {
                            Checks.truth(!value(conn, "select pg_backend_pid()").equals(pid), "another client on the backend of an open transaction");
                        }
                    }
                });
                TimeUnit.MILLISECONDS.sleep(500);
                Checks.equal(value(idle, "select pg_backend_pid()"), pid);
                idle.commit();
            }
        });

        c.check("backend_terminated", () -> {
            for (int i = 0; i < 3; i++) {
                try (Connection victim = connect(); Connection killer = connect()) {
                    victim.setAutoCommit(false);
                    String pid = value(victim, "select pg_backend_pid()");
                    Checks.equal(value(killer, "select pg_terminate_backend(?::int, 5000)", pid), "t");
                    try {
                        exec(victim, "select 1");
                        throw new Checks.Failure("a statement succeeded in a transaction whose backend was terminated");
                    } catch (SQLException failed) {
                        Checks.truth(Set.of("57P01", PSQLState.CONNECTION_FAILURE.getState()).contains(failed.getSQLState()), failed.toString());
                    }
                    Checks.equal(value(killer, "select 1"), "1");
                }
            }
        });
    }

    private static HikariDataSource pool(int size) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url(System.getenv("PGDATABASE")));
        config.setUsername(System.getenv("PGUSER"));
        config.setPassword(System.getenv("PGPASSWORD"));
        config.setMaximumPoolSize(size);
        config.setConnectionTimeout(15000);
        config.addDataSourceProperty("prepareThreshold", "2");
        return new HikariDataSource(config);
    }

    private static String first(PreparedStatement statement) throws SQLException {
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            return rows.getString(1);
        }
    }

    private static int columns(Connection conn, String sql) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(sql)) {
            statement.setInt(1, 0);
            try (ResultSet rows = statement.executeQuery()) {
                return rows.getMetaData().getColumnCount();
            }
        }
    }

    private static void allTypes(String binary) throws Exception {
        UUID uuid = UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        LocalDateTime moment = LocalDateTime.of(2024, 2, 29, 12, 34, 56, 789012000);
        String sql = "select ?::bool, ?::int2, ?::int4, ?::int8, ?::float4, ?::float8, ?::numeric, ?::text, ?::bytea, ?::date, ?::timestamp, "
                + "?::timestamptz, ?::uuid";
        try (Connection conn = connect("binaryTransfer", binary, "prepareThreshold", "1"); PreparedStatement statement = conn.prepareStatement(sql)) {
            for (int i = 0; i < 6; i++) {
                statement.setBoolean(1, true);
                statement.setShort(2, Short.MIN_VALUE);
                statement.setInt(3, Integer.MAX_VALUE);
                statement.setLong(4, Long.MIN_VALUE);
                statement.setFloat(5, 1.5f);
                statement.setDouble(6, 2.25);
                statement.setBigDecimal(7, new BigDecimal("123456789012345678901234567890.125"));
                statement.setString(8, "snowman ☃ 'quoted' \\");
                statement.setBytes(9, new byte[] {0, 1, -1, 92});
                statement.setObject(10, LocalDate.of(2024, 2, 29));
                statement.setObject(11, moment);
                statement.setObject(12, moment.atOffset(ZoneOffset.UTC));
                statement.setObject(13, uuid);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    Checks.equal(rows.getBoolean(1), true);
                    Checks.equal(rows.getShort(2), Short.MIN_VALUE);
                    Checks.equal(rows.getInt(3), Integer.MAX_VALUE);
                    Checks.equal(rows.getLong(4), Long.MIN_VALUE);
                    Checks.equal(rows.getFloat(5), 1.5f);
                    Checks.equal(rows.getDouble(6), 2.25);
                    Checks.equal(rows.getBigDecimal(7), new BigDecimal("123456789012345678901234567890.125"));
                    Checks.equal(rows.getString(8), "snowman ☃ 'quoted' \\");
                    Checks.truth(Arrays.equals(rows.getBytes(9), new byte[] {0, 1, -1, 92}), "bytea");
                    Checks.equal(rows.getDate(10), Date.valueOf("2024-02-29"));
                    Checks.equal(rows.getObject(11, LocalDateTime.class), moment);
                    Checks.equal(rows.getObject(12, OffsetDateTime.class).toInstant(), moment.toInstant(ZoneOffset.UTC));
                    Checks.equal(rows.getObject(13), uuid);
                }
            }
        }
    }
}
