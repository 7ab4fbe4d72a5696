//! The stick: finding it, its store, images, and clients' roots.
