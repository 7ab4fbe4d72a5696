//! The panel: buttons, display, and the screens they show.
