//! What people are told of a stick that fills and of clients that come to the end of their quotas.
//!
//! Pure.

use super::problems::{Problems, Topic};
use crate::client::Role;
use crate::quota::Level;

/// The stick, all clients together.
pub fn stick(problems: &mut Problems, left_bytes: u64, level: Level) {
    let message = match level {
        Level::Fine => return problems.clear(&Topic::Room),
        Level::Near => format!("The stick is nearly full: {} MiB left for clients", left_bytes >> 20),
        Level::Full => "The stick is full: clients cannot write".to_owned(),
    };
    problems.set(Topic::Room, message, "Delete files on clients, snapshots, or clients".to_owned());
}

/// One client of its quota.
pub fn client(problems: &mut Problems, role: &Role, used_bytes: u64, quota_bytes: u64, level: Level) {
    let (left, quota) = (quota_bytes.saturating_sub(used_bytes) >> 20, quota_bytes >> 20);
    let message = match level {
        Level::Fine => return problems.clear(&Topic::Quota(role.clone())),
        Level::Near => format!("{role} is nearly full: {left} of its {quota} MiB are left"),
        Level::Full => format!("{role} is full: it has used its {quota} MiB"),
    };
    let action = "Delete files on it or its snapshots, or raise quota in its client.toml".to_owned();
    problems.set(Topic::Quota(role.clone()), message, action);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearly_full_is_told_and_taken_back() {
        let mut problems = Problems::default();
        let role = Role::numbered(1);
        client(&mut problems, &role, 950 << 20, 1000 << 20, Level::Near);
        stick(&mut problems, 70 << 20, Level::Near);
        let told: Vec<String> = problems.list().into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            told,
            ["The stick is nearly full: 70 MiB left for clients", "pi-1 is nearly full: 50 of its 1000 MiB are left"]
        );
        stick(&mut problems, 1 << 40, Level::Fine);
        client(&mut problems, &role, 0, 1000 << 20, Level::Fine);
        assert!(problems.list().is_empty());
    }
}
