//! Long work says how far it is: a line on the terminal, or JSON lines with `--progress-json`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::Args;

/// One piece of long work.
pub(crate) struct Progress {
    device: String,
    what: &'static str,
    json: bool,
    terminal: bool,
    every: Duration,
    started: Instant,
    last: Option<Instant>,
    last_done: u64,
    line_open: bool,
}

impl Progress {
    /// Begins; nothing is printed yet.
    pub(crate) fn new(args: &Args, device: &Path, what: &'static str) -> Self {
        let json = args.flag("progress-json");
        let every = args.number("progress-frequency").map(Duration::from_secs);
        Self {
            device: device.to_string_lossy().into_owned(),
            what,
            json,
            terminal: io::stderr().is_terminal() || every.is_some(),
            every: every
                .filter(|e| !e.is_zero())
                .unwrap_or(Duration::from_millis(500)),
            started: Instant::now(),
            last: None,
            last_done: 0,
            line_open: false,
        }
    }

    /// So many bytes of so many are done.
    pub(crate) fn bytes(&mut self, done: u64, all: u64) {
        let early = self.last.is_some_and(|l| l.elapsed() < self.every);
        if early && done < all && done.saturating_sub(self.last_done) < STRIDE {
            return;
        }
        self.last = Some(Instant::now());
        self.last_done = done;
        let spent = self.started.elapsed();
        let speed = (done as f64 / spent.as_secs_f64().max(0.001)) as u64;
        if self.json {
            let left = all.saturating_sub(done);
            let eta = left.saturating_mul(1000).checked_div(speed).unwrap_or(0);
            // Numbers are strings, as in cryptsetup's progress lines.
            self.line(&json!({
                "device": self.device,
                "operation": self.what,
                "device_bytes": done.to_string(),
                "device_size": all.to_string(),
                "speed": speed.to_string(),
                "eta_ms": eta.to_string(),
                "time_ms": spent.as_millis().to_string(),
            }));
        } else if self.terminal {
            let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
            let text = format!(
                "\r{}: {percent:>3} %, {} of {}, {}/s ",
                self.what,
                crate::output::size(done),
                crate::output::size(all),
                crate::output::size(speed)
            );
            let _ = io::stderr().write_all(text.as_bytes());
            self.line_open = true;
            if done >= all {
                self.end();
            }
        }
    }

    /// A stage without a length begins, such as the calibration of a key derivation.
    pub(crate) fn stage(&mut self, stage: &str) {
        if self.json {
            self.line(&json!({
                "device": self.device,
                "operation": self.what,
                "stage": stage,
                "time_ms": self.started.elapsed().as_millis().to_string(),
            }));
        } else if self.terminal {
            self.end();
            let _ = writeln!(io::stderr(), "{}: {stage}", self.what);
        }
    }

    fn line(&self, value: &serde_json::Value) {
        let _ = writeln!(io::stdout(), "{value}");
    }

    fn end(&mut self) {
        if self.line_open {
            let _ = writeln!(io::stderr());
            self.line_open = false;
        }
    }
}

/// So many bytes are worth a line, however fast they went.
const STRIDE: u64 = 16 << 20;

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
