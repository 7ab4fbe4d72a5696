//! What people are told of a stick that fills and of clients that come to the end of their quotas.
//!
//! Pure.

use super::Action;
use super::problems::{Problems, Topic};
use crate::client::{ImageId, Role};
use crate::quota::{Account, Level};
use crate::status::Usage;

/// The stick, all clients together.
pub fn stick(problems: &mut Problems, left_bytes: u64, level: Level) {
    let message = match level {
        Level::Fine => return problems.clear(&Topic::Room),
        Level::Near => format!("The stick is nearly full: {} MiB left for clients", left_bytes >> 20),
        Level::Full => "The stick is full: clients cannot write".to_owned(),
    };
    problems.set(Topic::Room, message, "Delete files on clients, snapshots, or clients".to_owned());
}

/// What faces show of a client's account, in steps that are worth a new picture.
pub fn usage(account: &Account) -> Option<Usage> {
    let (used_bytes, quota_bytes) = account.usage()?;
    Some(Usage { used_bytes: used_bytes.next_multiple_of(1 << 20), quota_bytes })
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

/// An image was compared with its hashes.
pub fn scrubbed(
    problems: &mut Problems,
    image: &ImageId,
    damaged: &[String],
    files: &[String],
    actions: &mut Vec<Action>,
) {
    let topic = Topic::Damaged(format!("{image} in the scrub"));
    let Some(first) = damaged.first() else {
        actions.push(Action::Log(format!("image {image} was checked: whole")));
        return problems.clear(&topic);
    };
    for words in damaged.iter().chain(files) {
        actions.push(Action::Log(format!("image {image} is damaged: {words}")));
    }
    let named = match files {
        [] => String::new(),
        [file] => format!("; it concerns {file}"),
        [file, rest @ ..] => format!("; it concerns {file} and {} more", rest.len()),
    };
    let action = "Import its file anew under another name, and move its clients to that".to_owned();
    problems.set(topic, format!("{image}: {first}{named}"), action);
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

    #[test]
    fn a_scrub_names_the_files_and_a_clean_one_takes_it_back() {
        let (mut problems, mut actions) = (Problems::default(), Vec::new());
        let image: ImageId = "a-1".parse().unwrap();
        let words = |text: &str| vec![text.to_owned()];
        let files = ["/bin/a".to_owned(), "/bin/b".to_owned()];
        scrubbed(&mut problems, &image, &words("root.ext4 differs between byte 0 and 7"), &files, &mut actions);
        let message = &problems.list()[0].message;
        assert_eq!(message, "a-1: root.ext4 differs between byte 0 and 7; it concerns /bin/a and 1 more");
        assert_eq!(actions.len(), 3);
        scrubbed(&mut problems, &image, &[], &[], &mut actions);
        assert!(problems.list().is_empty());
    }
}
