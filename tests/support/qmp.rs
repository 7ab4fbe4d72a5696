//! QEMU's monitor (QMP): USB sticks are put in and pulled while the machine runs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What a command ends with where QEMU went away.
pub const CLOSED: &str = "QEMU closed its monitor";

pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// How many sticks were put in.
    count: u32,
}

impl Monitor {
    /// To `-qmp unix:SOCKET,server=on,wait=off`.
    pub fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| format!("monitor: {e}"))?;
        let mut monitor = Self { stream: BufReader::new(stream), count: 0 };
        monitor.tell("qmp_capabilities", "{}")?;
        Ok(monitor)
    }

    /// One command; waits for its answer.
    pub fn tell(&mut self, command: &str, arguments: &str) -> Result<(), String> {
        let line = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n");
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|e| format!("monitor: {e}"))?;
        self.answer(|line| match line {
            line if line.contains("\"error\"") => Some(Err(format!("{command}: {line}"))),
            line if line.contains("\"return\"") => Some(Ok(())),
            _ => None,
        })
    }

    fn answer(&mut self, mut wanted: impl FnMut(&str) -> Option<Result<(), String>>) -> Result<(), String> {
        loop {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(CLOSED.to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("monitor: {error}")),
            }
            if let Some(result) = wanted(&line) {
                return result;
            }
        }
    }

    /// Puts what lies on a drive or block device into a port of the controller `usb`; what `pull` wants.
    pub fn plug(&mut self, drive: &str, port: u8) -> Result<String, String> {
        self.count += 1;
        let id = format!("usb{}", self.count);
        let arguments = format!(
            "{{\"driver\":\"usb-storage\",\"id\":\"{id}\",\"bus\":\"usb.0\",\"port\":\"{port}\",\"drive\":\"{drive}\",\
             \"serial\":\"{drive}\",\"removable\":true,\"werror\":\"report\"}}"
        );
        self.tell("device_add", &arguments)?;
        Ok(id)
    }

    /// Pulls it: no unmount, no flush, no word before.
    pub fn pull(&mut self, id: &str) -> Result<(), String> {
        self.tell("device_del", &format!("{{\"id\":\"{id}\"}}"))?;
        self.answer(|line| (line.contains("DEVICE_DELETED") && line.contains(id)).then_some(Ok(())))
    }
}
