//! ONC RPC version 2 (RFC 5531) as a server sees it: call headers, AUTH_NONE
//! and AUTH_SYS credentials, reply headers. Pure.

use super::xdr::{Cursor, Encoder, Malformed};

/// Bytes in a credential's or verifier's body (RFC 5531 §8.2).
const MAX_AUTH_BYTES: usize = 400;
/// AUTH_SYS carries at most 16 supplementary groups (RFC 5531 appendix A).
const MAX_GIDS: usize = 16;
const MAX_MACHINENAME: usize = 255;
/// What `-1` becomes: as an id it would mean "leave it as it is" to the system calls.
const OVERFLOW_ID: u32 = 65534;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
pub const AUTH_SYS: u32 = 1;

/// Why a call is denied before its program is looked at (`auth_stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthStat {
    BadCred = 1,
    TooWeak = 5,
}

/// Who calls (RFC 5531 appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credentials {
    None,
    Sys(AuthSys),
}

/// The ids of an AUTH_SYS credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AuthSys {
    pub uid: u32,
    pub gid: u32,
    gids: [u32; MAX_GIDS],
    count: usize,
}

impl AuthSys {
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let valid = |id| if id == u32::MAX { OVERFLOW_ID } else { id };
        let count = groups.len().min(MAX_GIDS);
        let mut gids = [0; MAX_GIDS];
        for (place, gid) in gids.iter_mut().zip(groups) {
            *place = valid(*gid);
        }
        Self { uid: valid(uid), gid: valid(gid), gids, count }
    }

    /// What an unauthenticated caller acts as.
    pub fn nobody() -> Self {
        Self::new(OVERFLOW_ID, OVERFLOW_ID, &[])
    }

    pub fn groups(&self) -> &[u32] {
        &self.gids[..self.count]
    }
}

/// A call whose header was understood; its arguments are behind it in the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub xid: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    pub credentials: Credentials,
}

/// What a record turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Call(Call),
    /// To be answered with MSG_DENIED: not RPC version 2.
    RpcMismatch {
        xid: u32,
    },
    /// To be answered with MSG_DENIED, AUTH_ERROR.
    AuthError {
        xid: u32,
        stat: AuthStat,
    },
}

/// Reads a call's header. `Malformed` for what has not even that: nothing can be answered to it.
pub fn parse(record: &mut Cursor<'_>) -> Result<Parsed, Malformed> {
    let xid = record.u32()?;
    if record.u32()? != CALL {
        return Err(Malformed);
    }
    if record.u32()? != RPC_VERSION {
        return Ok(Parsed::RpcMismatch { xid });
    }
    let (program, version, procedure) = (record.u32()?, record.u32()?, record.u32()?);
    let bad_credentials = Parsed::AuthError { xid, stat: AuthStat::BadCred };
    let flavor = record.u32()?;
    let Ok(body) = record.opaque(MAX_AUTH_BYTES) else { return Ok(bad_credentials) };
    let credentials = match flavor {
        AUTH_NONE => Credentials::None,
        AUTH_SYS => match auth_sys(body) {
            Ok(sys) => Credentials::Sys(sys),
            Err(Malformed) => return Ok(bad_credentials),
        },
        _ => return Ok(bad_credentials),
    };
    // The verifier's flavor is not looked at: for both flavors above it says nothing.
    record.u32()?;
    record.opaque(MAX_AUTH_BYTES)?;
    Ok(Parsed::Call(Call { xid, program, version, procedure, credentials }))
}

fn auth_sys(body: &[u8]) -> Result<AuthSys, Malformed> {
    let mut body = Cursor::new(body);
    let _stamp = body.u32()?;
    body.opaque(MAX_MACHINENAME)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let count = body.u32()? as usize;
    if count > MAX_GIDS {
        return Err(Malformed);
    }
    let mut gids = [0; MAX_GIDS];
    for place in &mut gids[..count] {
        *place = body.u32()?;
    }
    Ok(AuthSys::new(uid, gid, &gids[..count]))
}

/// How a call that was not denied ended (`accept_stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    Success,
    ProgUnavail,
    ProgMismatch { low: u32, high: u32 },
    ProcUnavail,
    GarbageArgs,
}

/// The header of a reply to an accepted call; the results of `Success` follow it.
pub fn accepted(reply: &mut Encoder, xid: u32, accept: Accept) {
    reply.u32(xid);
    reply.u32(REPLY);
    reply.u32(0); // MSG_ACCEPTED
    reply.u32(AUTH_NONE);
    reply.u32(0); // an empty verifier
    match accept {
        Accept::Success => reply.u32(0),
        Accept::ProgUnavail => reply.u32(1),
        Accept::ProgMismatch { low, high } => {
            reply.u32(2);
            reply.u32(low);
            reply.u32(high);
        }
        Accept::ProcUnavail => reply.u32(3),
        Accept::GarbageArgs => reply.u32(4),
    }
}

/// MSG_DENIED, RPC_MISMATCH: version 2 is all there is.
pub fn rpc_mismatch(reply: &mut Encoder, xid: u32) {
    for item in [xid, REPLY, 1, 0, RPC_VERSION, RPC_VERSION] {
        reply.u32(item);
    }
}

/// MSG_DENIED, AUTH_ERROR.
pub fn auth_error(reply: &mut Encoder, xid: u32, stat: AuthStat) {
    for item in [xid, REPLY, 1, 1, stat as u32] {
        reply.u32(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A call header with a credential of `flavor` and `body`.
    fn call(version: u32, flavor: u32, body: &[u8]) -> Vec<u8> {
        let mut call = Encoder::default();
        for item in [7, CALL, version, 100_003, 3, 1, flavor] {
            call.u32(item);
        }
        call.opaque(body);
        call.u32(0);
        call.u32(0);
        call.bytes().to_vec()
    }

    fn sys(name: &[u8], uid: u32, gids: &[u32]) -> Vec<u8> {
        let mut body = Encoder::default();
        body.u32(1);
        body.opaque(name);
        body.u32(uid);
        body.u32(100);
        body.u32(gids.len() as u32);
        gids.iter().for_each(|gid| body.u32(*gid));
        body.bytes().to_vec()
    }

    fn check(bytes: &[u8], expected: Result<Parsed, Malformed>) {
        assert_eq!(parse(&mut Cursor::new(bytes)), expected);
    }

    #[test]
    fn auth_sys_gives_ids_and_groups() {
        let credentials = Credentials::Sys(AuthSys::new(1000, 100, &[4, 24]));
        let expected = Call { xid: 7, program: 100_003, version: 3, procedure: 1, credentials };
        check(&call(2, 1, &sys(b"pi-1", 1000, &[4, 24])), Ok(Parsed::Call(expected)));
    }

    #[test]
    fn minus_one_is_nobody_and_never_root() {
        let all = AuthSys::new(u32::MAX, u32::MAX, &[u32::MAX]);
        assert_eq!((all.uid, all.gid, all.groups()), (65534, 65534, &[65534][..]));
    }

    #[test]
    fn credentials_that_lie_get_auth_error() {
        let denied = Ok(Parsed::AuthError { xid: 7, stat: AuthStat::BadCred });
        check(&call(2, 1, &sys(b"pi-1", 0, &[0; 17])), denied);
        check(&call(2, 1, &sys(&[b'a'; 256], 0, &[])), denied);
        check(&call(2, 1, &[0; 3]), denied);
        check(&call(2, 1, &[0xff; 400]), denied);
        check(&call(2, 0, &[0; 401]), denied);
        check(&call(2, 6, &[]), denied); // RPCSEC_GSS
        check(&call(2, 99, &[]), denied);
    }

    #[test]
    fn another_rpc_version_is_a_mismatch() {
        check(&call(3, 0, &[]), Ok(Parsed::RpcMismatch { xid: 7 }));
    }

    #[test]
    fn what_is_no_call_cannot_be_answered() {
        check(&[], Err(Malformed));
        check(&[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2], Err(Malformed));
        check(&call(2, 0, &[])[..26], Err(Malformed));
        check(&call(2, 0, &[])[..38], Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_record_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&mut Cursor::new(&bytes));
        }

        #[test]
        fn any_cut_header_is_refused(cut in 0usize..80) {
            let whole = call(2, 1, &sys(b"pi-1", 1000, &[4, 24]));
            let cut = cut.min(whole.len() - 1);
            let parsed = parse(&mut Cursor::new(&whole[..cut]));
            prop_assert!(!matches!(parsed, Ok(Parsed::Call(_))), "{parsed:?}");
        }
    }
}
