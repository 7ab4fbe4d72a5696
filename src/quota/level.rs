//! How near a limit is, as people are told. Pure.

/// How near a limit is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Fine,
    /// A tenth is left, or less.
    Near,
    /// A hundredth is left, or less: writes fail, or will in a moment.
    Full,
}

impl Level {
    /// Of `left` in `total`, seen from the level before: it must become clearly better to be told so.
    pub fn next(self, left: u64, total: u64) -> Self {
        let within = |parts: u64| u128::from(left) * u128::from(parts) <= u128::from(total);
        let level = match () {
            () if within(100) => Self::Full,
            () if within(10) => Self::Near,
            () => Self::Fine,
        };
        match (self, level) {
            (Self::Full, Self::Near) if within(50) => Self::Full,
            (Self::Full | Self::Near, Self::Fine) if within(8) => Self::Near,
            _ => level,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_does_not_flutter() {
        let steps: Vec<Level> = [50, 11, 10, 11, 12, 13, 1, 2, 3, 0]
            .into_iter()
            .scan(Level::Fine, |level, left| {
                *level = level.next(left, 100);
                Some(*level)
            })
            .collect();
        use Level::*;
        assert_eq!(steps, [Fine, Fine, Near, Near, Near, Fine, Full, Full, Near, Full]);
    }
}
