//! Where the program starts: PID 1, one of its helpers, or a command.

use std::process::ExitCode;

use rootstock::init;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    if let Some(helper) = init::Helper::from_args(std::env::args_os()) {
        return helper.run();
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
