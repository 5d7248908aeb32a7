import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Runs named checks and prints one line of JSON for each: {"name", "ok", "detail"}. */
final class Checks {
    static final int LIMIT_SECONDS = 40;

    interface Body {
        void run() throws Exception;
    }

    interface Work {
        void run(int number) throws Exception;
    }

    /** An expectation that does not hold. */
    static final class Failure extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Failure(String text) {
            super(text);
        }
    }

    private final Map<String, Body> registered = new LinkedHashMap<>();

    void check(String name, Body body) {
        registered.put(name, body);
    }

    static void equal(Object have, Object want) {
        if (!Objects.equals(have, want)) {
            throw new Failure("got " + brief(have) + ", expected " + brief(want));
        }
    }

    static void truth(boolean holds, String text) {
        if (!holds) {
            throw new Failure(text);
        }
    }

    private static String brief(Object value) {
        String text = String.valueOf(value);
        return text.length() > 300 ? text.substring(0, 300) + "..." : text;
    }

    /** Runs work(0) .. work(count - 1) at once; fails with the first failure of any of them. */
    static void together(int count, Work work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count, Checks::daemon);
        try {
            List<Callable<Void>> tasks = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                int number = i;
                tasks.add(() -> {
                    work.run(number);
                    return null;
                });
            }
            for (Future<Void> done : threads.invokeAll(tasks)) {
                try {
                    done.get();
                } catch (java.util.concurrent.ExecutionException failed) {
                    if (failed.getCause() instanceof Exception cause) {
                        throw cause;
                    }
                    throw failed;
                }
            }
        } finally {
            threads.shutdownNow();
        }
    }

    private static Thread daemon(Runnable body) {
        Thread thread = new Thread(body);
        thread.setDaemon(true);
        return thread;
    }

    void run(Set<String> wanted) {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        for (Map.Entry<String, Body> one : registered.entrySet()) {
            if (!wanted.isEmpty() && !wanted.contains(one.getKey())) {
                continue;
            }
            long started = System.nanoTime();
            String detail = outcome(one.getValue());
            double seconds = (System.nanoTime() - started) / 1e9;
            out.printf("{\"name\": %s, \"ok\": %b, \"detail\": %s, \"seconds\": %.3f}%n",
                    quoted(one.getKey()), detail.isEmpty(), quoted(detail), seconds);
        }
    }

    private static String outcome(Body body) {
        ExecutorService thread = Executors.newSingleThreadExecutor(Checks::daemon);
        try {
            Future<?> done = thread.submit(() -> {
                body.run();
                return null;
            });
            done.get(LIMIT_SECONDS, TimeUnit.SECONDS);
            return "";
        } catch (TimeoutException late) {
            return "still running after " + LIMIT_SECONDS + " s";
        } catch (Exception failed) {
            return described(failed.getCause() == null ? failed : failed.getCause());
        } finally {
            thread.shutdownNow();
        }
    }

    private static String described(Throwable failed) {
        StringBuilder text = new StringBuilder(failed instanceof Failure ? failed.getMessage() : failed.toString());
        int shown = 0;
        for (StackTraceElement frame : failed.getStackTrace()) {
            if ("Pgjdbc.java".equals(frame.getFileName()) && shown++ < 3) {
                text.append(shown == 1 ? " (" : ", ").append(frame.getFileName()).append(':').append(frame.getLineNumber());
            }
        }
        return text.append(shown > 0 ? ")" : "").toString();
    }

    private static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < 32) {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }
}
