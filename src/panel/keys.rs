//! Keys of a terminal as presses of the panel's buttons.
//!
//! Pure: bytes in, gestures out, however they are cut into reads.

use super::{Button, Gesture};

/// What a byte meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Press(Gesture),
    /// Ctrl-C, which a raw terminal hands over as a byte.
    Interrupt,
    /// For those who only watch: the panel itself does not end.
    Quit,
}

/// Follows escape sequences, so that a key such as an arrow is not taken for
/// the letters in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    #[default]
    Plain,
    /// After ESC.
    Escape,
    /// Inside CSI or SS3, until their final byte (ECMA-48 §5.4).
    Sequence,
}

impl Keys {
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        let (next, key) = match (*self, byte) {
            (_, 0x1b) => (Self::Escape, None),
            (Self::Escape, b'[' | b'O') => (Self::Sequence, None),
            (Self::Sequence, 0x20..0x40) => (Self::Sequence, None),
            (Self::Sequence | Self::Escape, _) => (Self::Plain, None),
            (Self::Plain, byte) => (Self::Plain, key(byte)),
        };
        *self = next;
        key
    }
}

fn key(byte: u8) -> Option<Key> {
    let gesture = match byte {
        b'e' => Gesture::Short(Button::Enroll),
        b'E' => Gesture::Long(Button::Enroll),
        b'n' => Gesture::Short(Button::Next),
        b'N' => Gesture::Long(Button::Next),
        b'L' => Gesture::Longer(Button::Enroll),
        0x03 => return Some(Key::Interrupt),
        b'q' => return Some(Key::Quit),
        _ => return None,
    };
    Some(Key::Press(gesture))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &[Key]) {
        let mut keys = Keys::default();
        let got: Vec<Key> = bytes.iter().filter_map(|&byte| keys.feed(byte)).collect();
        assert_eq!(got, expected, "{bytes:?}");
    }

    #[test]
    fn four_letters_are_the_buttons_and_others_are_nothing() {
        let expected = [
            Key::Press(Gesture::Short(Button::Enroll)),
            Key::Press(Gesture::Long(Button::Enroll)),
            Key::Press(Gesture::Short(Button::Next)),
            Key::Press(Gesture::Long(Button::Next)),
            Key::Interrupt,
        ];
        check(b"e?E\r\nnxN\x03\xff", &expected);
    }

    #[test]
    fn letters_inside_a_sequence_are_not_pressed() {
        check(b"\x1b[E\x1bOE\x1b[0n\x1b[1;5N\x1be", &[]);
        check(b"\x1b[1;5Ae", &[Key::Press(Gesture::Short(Button::Enroll))]);
    }
}
