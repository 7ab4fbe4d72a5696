//! The panel: buttons, display, and the screens they show.
pub mod draw;
pub mod frame;
pub mod gestures;
pub mod pages;
pub mod presence;
pub mod screen;
pub mod screens;
pub mod words;

/// One of the panel's two buttons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Button {
    Enroll,
    Next,
}

/// What a finger meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gesture {
    /// Released before three seconds.
    Short(Button),
    /// At three seconds, while still held.
    Long(Button),
}
