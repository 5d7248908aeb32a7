import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/** Logins of pgjdbc: reads URLs, a line each, and prints for each of them who it is there, or the refusal and its causes. */
public final class Logins {
    private Logins() {}

    private static String logIn(String url) throws SQLException {
        try (Connection conn = DriverManager.getConnection(url);
                Statement statement = conn.createStatement();
                ResultSet rows = statement.executeQuery("select current_user::text")) {
            rows.next();
            return rows.getString(1);
        }
    }

    public static void main(String[] arguments) throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String url = lines.readLine(); url != null; url = lines.readLine()) {
            try {
                System.out.println("in as " + logIn(url));
            } catch (SQLException refused) {
                StringBuilder said = new StringBuilder("refused:");
                for (Throwable cause = refused; cause != null; cause = cause.getCause()) {
                    said.append(' ').append(String.valueOf(cause.getMessage()).replaceAll("\\s+", " "));
                }
                System.out.println(said);
            }
        }
    }
}
