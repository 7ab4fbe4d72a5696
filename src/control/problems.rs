//! What needs a person, one entry a topic, so that a trouble repeated is shown once.
//!
//! Pure.

use std::mem::discriminant;

use crate::client::Role;
use crate::status::Problem;

/// Troubles kept at a time; the least urgent makes room.
const MAX_PROBLEMS: usize = 16;
/// Of one kind: twenty damaged files must not hide what else needs a person. The log has all of them.
const MOST_OF_A_KIND: usize = 6;

/// What a trouble is about; the order is the order of urgency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Heat and supply.
    Board,
    Network,
    /// The traffic light is red.
    Wire,
    /// What clients write is refused or not kept: what else the stick does must not hide it.
    NotKept,
    Stick,
    /// The stick is full, or nearly.
    Room,
    /// A damaged file in the store, by its path there.
    Damaged(String),
    /// The second stick.
    Backup,
    /// The recovery card.
    Card,
    /// By the image file's name.
    Import(String),
    /// By the update file's name; of the work itself by none.
    Update(String),
    Client(Role),
    /// It has its share, or nearly.
    Quota(Role),
    /// By what was tested.
    SelfTest(String),
    /// Nobody came while the window was open.
    Enrolment,
    Config,
}

#[derive(Debug, Default)]
pub struct Problems(Vec<(Topic, Problem)>);

impl Problems {
    /// Puts a trouble in the place of the former one of its topic.
    pub fn set(&mut self, topic: Topic, message: String, action: String) {
        self.clear(&topic);
        let at = self.0.partition_point(|(other, _)| *other <= topic);
        let kind = discriminant(&topic);
        self.0.insert(at, (topic, Problem { message, action }));
        let of_kind = |(other, _): &(Topic, Problem)| discriminant(other) == kind;
        if self.0.iter().filter(|entry| of_kind(entry)).count() > MOST_OF_A_KIND
            && let Some(last) = self.0.iter().rposition(of_kind)
        {
            self.0.remove(last);
        }
        self.0.truncate(MAX_PROBLEMS);
    }

    pub fn clear(&mut self, topic: &Topic) {
        self.0.retain(|(other, _)| other != topic);
    }

    /// The files that were broken are out of reach.
    pub fn clear_imports(&mut self) {
        self.0.retain(|(topic, _)| !matches!(topic, Topic::Import(_)));
    }

    /// The store is read anew, or out of reach.
    pub fn clear_damaged(&mut self) {
        self.0
            .retain(|(topic, _)| !matches!(topic, Topic::NotKept | Topic::Damaged(_) | Topic::Room | Topic::Quota(_)));
    }

    /// Other update files lie there now.
    pub fn clear_updates(&mut self) {
        self.0.retain(|(topic, _)| !matches!(topic, Topic::Update(_)));
    }

    pub fn list(&self) -> Vec<Problem> {
        self.0.iter().map(|(_, problem)| problem.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_stands_once_and_the_urgent_first() {
        let mut problems = Problems::default();
        problems.set(Topic::Config, "a".to_owned(), String::new());
        problems.set(Topic::Network, "b".to_owned(), String::new());
        problems.set(Topic::Config, "c".to_owned(), String::new());
        let messages: Vec<String> = problems.list().into_iter().map(|problem| problem.message).collect();
        assert_eq!(messages, ["b", "c"]);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut problems = Problems::default();
        for n in 0..1000 {
            problems.set(Topic::Client(Role::numbered(n)), "x".to_owned(), String::new());
        }
        assert_eq!(problems.list().len(), MOST_OF_A_KIND);
        for n in 0..1000 {
            problems.set(Topic::Damaged(n.to_string()), "x".to_owned(), String::new());
            problems.set(Topic::Import(n.to_string()), "x".to_owned(), String::new());
        }
        assert_eq!(problems.list().len(), MAX_PROBLEMS);
    }

    #[test]
    fn many_of_one_kind_hide_no_other() {
        let mut problems = Problems::default();
        problems.set(Topic::Config, "the configuration".to_owned(), String::new());
        problems.set(Topic::Client(Role::numbered(1)), "a client".to_owned(), String::new());
        for n in 0..100 {
            problems.set(Topic::Damaged(n.to_string()), "a file".to_owned(), String::new());
        }
        let messages: Vec<String> = problems.list().into_iter().map(|problem| problem.message).collect();
        assert_eq!(messages[MOST_OF_A_KIND..], ["a client", "the configuration"]);
    }
}
