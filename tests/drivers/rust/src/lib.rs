//! Runs named checks and prints one line of JSON for each: {"name", "ok", "detail"}.
//! A check fails by panicking; checks of one program share nothing but the database.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(40);

type Body = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

#[derive(Default)]
pub struct Checks {
    registered: Vec<(&'static str, Body)>,
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Checks {
    pub fn check<F, T>(&mut self, name: &'static str, body: F)
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        self.registered.push((name, Box::new(|| Box::pin(body()))));
    }

    pub async fn run(self) {
        let wanted: HashSet<String> = std::env::args().skip(1).collect();
        std::panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("panic").chars().take(600).collect::<String>();
            let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
            PANICS.lock().unwrap().push(text + &place);
        }));
        for (name, body) in self.registered {
            if !wanted.is_empty() && !wanted.contains(name) {
                continue;
            }
            PANICS.lock().unwrap().clear();
            let started = Instant::now();
            let task = tokio::spawn(body());
            let stop = task.abort_handle();
            let detail = match tokio::time::timeout(LIMIT, task).await {
                Err(_) => {
                    stop.abort();
                    format!("still running after {LIMIT:?}")
                }
                Ok(Ok(())) => String::new(),
                Ok(Err(failed)) => PANICS.lock().unwrap().first().cloned().unwrap_or_else(|| failed.to_string()),
            };
            let line = serde_json::json!({
                "name": name, "ok": detail.is_empty(), "detail": detail, "seconds": started.elapsed().as_secs_f64(),
            });
            println!("{line}");
        }
    }
}

/// Runs work(0) .. work(count - 1) at once; fails with the first failure of any of them.
pub async fn together<F, T>(count: usize, work: F)
where
    F: Fn(usize) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = (0..count).map(|number| tokio::spawn(work(number))).collect();
    let mut failed = false;
    for task in tasks {
        failed |= task.await.is_err();
    }
    if failed {
        let first = PANICS.lock().unwrap().first().cloned().unwrap_or_default();
        panic!("{first}");
    }
}

pub async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}
