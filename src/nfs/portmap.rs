//! Portmap version 2 (RFC 1833 §3): where NFS and MOUNT listen. Pure.
//!
//! Nothing can be registered, and CALLIT (a relay for floods) does not exist.

use super::rpc::Accept;
use super::xdr::{Cursor, Encoder};

pub const PROGRAM: u32 = 100_000;
pub const VERSION: u32 = 2;
const GETPORT: u32 = 3;
const TCP: u32 = 6;
const UDP: u32 = 17;

/// What listens where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    pub nfs: u16,
    pub mount: u16,
    pub portmap: u16,
}

impl Ports {
    /// (program, version, protocol, port). NFS itself is TCP only.
    fn mappings(self) -> [(u32, u32, u32, u16); 5] {
        [
            (PROGRAM, VERSION, TCP, self.portmap),
            (PROGRAM, VERSION, UDP, self.portmap),
            (super::procedures::PROGRAM, super::procedures::VERSION, TCP, self.nfs),
            (super::mount::PROGRAM, super::mount::VERSION, TCP, self.mount),
            (super::mount::PROGRAM, super::mount::VERSION, UDP, self.mount),
        ]
    }
}

/// The program and version that a GETPORT is about.
pub fn asked(procedure: u32, mut args: Cursor<'_>) -> Option<(u32, u32)> {
    if procedure != GETPORT {
        return None;
    }
    Some((args.u32().ok()?, args.u32().ok()?))
}

/// Answers one call: writes the results of a success, or says what was wrong.
pub fn handle(ports: Ports, procedure: u32, args: &mut Cursor<'_>, reply: &mut Encoder) -> Accept {
    match procedure {
        0 => {}
        // SET and UNSET: refused.
        1 | 2 => reply.bool(false),
        GETPORT => {
            let (Ok(program), Ok(version), Ok(protocol), Ok(_port)) = (args.u32(), args.u32(), args.u32(), args.u32())
            else {
                return Accept::GarbageArgs;
            };
            reply.u32(getport(ports, program, version, protocol).into());
        }
        4 => {
            for (program, version, protocol, port) in ports.mappings() {
                reply.bool(true);
                for item in [program, version, protocol, port.into()] {
                    reply.u32(item);
                }
            }
            reply.bool(false);
        }
        _ => return Accept::ProcUnavail,
    }
    Accept::Success
}

/// 0 for what is not here. An asker for a version that we have not gets the
/// port nevertheless, and learns the right version there (RFC 1833 §3.2).
fn getport(ports: Ports, program: u32, version: u32, protocol: u32) -> u16 {
    let mappings = ports.mappings();
    let of_program = || mappings.iter().filter(|mapping| (mapping.0, mapping.2) == (program, protocol));
    of_program().find(|mapping| mapping.1 == version).or_else(|| of_program().next()).map_or(0, |mapping| mapping.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { nfs: 2049, mount: 20048, portmap: 111 };

    fn check(procedure: u32, args: &[u32], accept: Accept, results: &[u32]) {
        let mut call = Encoder::default();
        args.iter().for_each(|item| call.u32(*item));
        let mut reply = Encoder::default();
        assert_eq!(handle(PORTS, procedure, &mut Cursor::new(call.bytes()), &mut reply), accept);
        let words: Vec<u32> =
            reply.bytes().chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, results, "procedure {procedure} {args:?}");
    }

    #[test]
    fn getport_tells_where_each_program_listens() {
        check(3, &[100_003, 3, 6, 0], Accept::Success, &[2049]);
        check(3, &[100_005, 3, 6, 0], Accept::Success, &[20048]);
        check(3, &[100_005, 3, 17, 0], Accept::Success, &[20048]);
        check(3, &[100_000, 2, 17, 0], Accept::Success, &[111]);
        check(3, &[100_003, 3, 17, 0], Accept::Success, &[0]); // NFS is TCP only
        check(3, &[100_227, 3, 6, 0], Accept::Success, &[0]); // no NFSACL
        check(3, &[100_021, 4, 6, 0], Accept::Success, &[0]); // no lock manager
    }

    #[test]
    fn another_version_gets_the_port_and_learns_the_version_there() {
        check(3, &[100_003, 4, 6, 0], Accept::Success, &[2049]);
    }

    #[test]
    fn nothing_can_be_registered_or_relayed() {
        check(1, &[100_003, 3, 6, 9999], Accept::Success, &[0]);
        check(2, &[100_003, 3, 6, 0], Accept::Success, &[0]);
        check(5, &[], Accept::ProcUnavail, &[]);
    }

    #[test]
    fn truncated_arguments_are_garbage() {
        check(3, &[100_003, 3, 6], Accept::GarbageArgs, &[]);
    }

    #[test]
    fn dump_lists_every_mapping() {
        let mut reply = Encoder::default();
        assert_eq!(handle(PORTS, 4, &mut Cursor::new(&[]), &mut reply), Accept::Success);
        assert_eq!(reply.len(), 5 * 20 + 4);
    }
}
