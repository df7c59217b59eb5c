//! Who gets which server, and when.
