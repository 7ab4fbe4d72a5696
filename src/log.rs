//! The log: one line an event on standard error, with the seconds since the
//! machine's start, so that lines of PID 1, the server and the kernel compare. The
//! server's black box gets a copy.

use std::fmt;

use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// CLOCK_BOOTTIME, as the kernel's own log prints it.
struct SinceBoot;

impl FormatTime for SinceBoot {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        write!(w, "[{:5}.{:06}]", now.tv_sec, now.tv_nsec / 1000)
    }
}

/// Starts logging; call once, first of all.
pub fn start(level: Level) {
    tracing_subscriber::fmt()
        .with_writer(|| crate::blackbox::tap::LogWriter)
        .with_max_level(level)
        .with_timer(SinceBoot)
        .with_ansi(false)
        .init();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        crate::blackbox::tap::last_words(&panic.to_string());
        print(panic);
    }));
}
